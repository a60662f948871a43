"""Captured tensors at positions that are clamped, or that a mask keeps within them: values, gradients, and nothing read behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import attngen
from attngen.errors import ShapeMismatch
from attngen.ir.parser import parse
from attngen.plan.short_captures import indexed, short_tensors
from attngen.transform.canonicalize import canonicalize
from tests.kernels.memory import fenced

SCHEDULE = {
    role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")
}
ROWS, KEYS, HEADS, SIZE, WIDTH = 27, 41, 2, 9, 16
Position = Callable[[Any, Any], Any]
LAST = torch.tensor(SIZE - 1)
CLAMPED: dict[str, Position] = {
    "keys": lambda i, j: torch.clamp(j, max=SIZE - 1),
    "queries": lambda i, j: torch.minimum(i, LAST),
    "from an end": lambda i, j: torch.clamp(j - 20, 0, SIZE - 1),
    "distances": lambda i, j: torch.clamp(i - j, -4, 4) + 4,
    "absolute distances": lambda i, j: torch.clamp((i - j).abs(), max=SIZE - 1),
    "buckets": lambda i, j: torch.where(j < 4, j, torch.clamp(4 + (j - 4) // 8, max=SIZE - 1)),
    "absolute keys": lambda i, j: torch.clamp(abs(j - 12), max=SIZE - 1),
    "remainders": lambda i, j: torch.maximum(j % SIZE, LAST - 4),
    "reversed": lambda i, j: torch.clamp(-j, min=1 - SIZE) + (SIZE - 1),
}
"""Positions within a table of `SIZE`, several of which fall together."""
Mask = Callable[[Any, Any, Any], Any]
LENGTHS = torch.tensor([SIZE, 5])
HIDING: dict[str, Mask] = {
    "a literal": lambda b, i, j: j < SIZE,
    "a captured length": lambda b, i, j: j < LENGTHS[b],
    "causal and a length": lambda b, i, j: (i >= j) & (j <= SIZE - 1),
    "a distance from the start": lambda b, i, j: (j - 2).abs() < SIZE - 2,
    "blocks": lambda b, i, j: (j // 3 < 3) & (j // 3 <= i // 3),
}
"""Masks that hide all keys behind a table of `SIZE`."""


def assert_right(attend: attngen.Attention, score: Callable[..., Any], mask: Mask | None, table: torch.Tensor, seed: int) -> None:
    """Outputs and gradients, the table's included, against dense attention over the table filled up with zeros, `reference` as well."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, HEADS, length, WIDTH) for length in (ROWS, KEYS, KEYS)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    b, h = torch.arange(2)[:, None, None, None], torch.arange(HEADS)[:, None, None]
    i, j = torch.arange(ROWS)[:, None], torch.arange(KEYS)
    whole = torch.cat((table, torch.zeros(HEADS, KEYS - table.shape[-1], dtype=table.dtype)), -1)
    keep = torch.ones((), dtype=torch.bool) if mask is None else mask(b, i, j)
    keep = keep.expand(2, HEADS, ROWS, KEYS)
    weights = torch.softmax(score(q @ k.mT / WIDTH**0.5, whole, h, i, j).masked_fill(~keep, float("-inf")), -1)
    expected = weights @ v
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(expected, (q, k, v, table), cotangent)
    for run in (attend, attend.reference):
        found = run(q, k, v)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for mine, other in zip(torch.autograd.grad(found, (q, k, v, table), cotangent), right, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def learned(size: int, seed: int) -> torch.Tensor:
    """[heads, size], with nothing mapped behind it."""
    values = torch.randn(HEADS, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return fenced(values).requires_grad_()


@pytest.mark.kernels
@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.sampled_from(sorted(CLAMPED)), st.booleans(), st.integers(0, 2**16))
def test_clamped_positions(name: str, product: bool, seed: int) -> None:
    at, table = CLAMPED[name], learned(SIZE, seed)

    def plus(s: Any, t: Any, h: Any, i: Any, j: Any) -> Any:
        return s * (1 + 0.1 * t[h, at(i, j)]) if product else s + t[h, at(i, j)]

    attend = attngen.compile(attngen.attention(score_mod=lambda s, b, h, i, j: plus(s, table, h, i, j)), arch="sm90", schedule=SCHEDULE)
    assert_right(attend, plus, None, table, seed)


@pytest.mark.kernels
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.sampled_from(sorted(HIDING)), st.sampled_from([SIZE, SIZE + 3, KEYS]), st.integers(0, 2**16))
def test_a_mask_may_hide_what_is_behind_a_table(name: str, size: int, seed: int) -> None:
    mask, table = HIDING[name], learned(size, seed)
    attend = attngen.compile(
        attngen.attention(score_mod=lambda s, b, h, i, j: s + table[h, j], mask_mod=lambda b, h, i, j: mask(b, i, j)),
        arch="sm90",
        schedule=SCHEDULE,
    )
    assert_right(attend, lambda s, t, h, i, j: s + t[h, j], mask, table, seed)
    with pytest.raises(ShapeMismatch, match=f"has {SIZE - 1} elements"):
        short = learned(SIZE - 1, seed)
        spec = attngen.attention(score_mod=lambda s, b, h, i, j: s + short[h, j], mask_mod=lambda b, h, i, j: mask(b, i, j))
        attngen.compile(spec, arch="sm90")(*(torch.zeros(2, HEADS, n, WIDTH) for n in (ROWS, KEYS, KEYS)))


@pytest.mark.kernels
def test_a_table_of_a_mask_may_end_where_the_rest_of_it_fails() -> None:
    kept = torch.arange(SIZE) % 3 != 0
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, i, j: kept[j] & (j < SIZE) & (i >= j)), arch="sm90", schedule=SCHEDULE)
    whole = torch.cat((kept, torch.zeros(KEYS - SIZE, dtype=torch.bool)))
    keep = whole & (torch.arange(ROWS)[:, None] >= torch.arange(KEYS))
    q, k, v = (torch.randn(1, 1, n, WIDTH, dtype=torch.float64) for n in (ROWS, KEYS, KEYS))
    weights = torch.softmax((q @ k.mT / WIDTH**0.5).masked_fill(~keep, -1e300), -1) * keep
    for run in (attend, attend.reference):
        torch.testing.assert_close(run(q, k, v), weights @ v, rtol=1e-9, atol=1e-9)
    assert attend.mask_tiles(q_len=ROWS, kv_len=KEYS, head_dim=WIDTH)[0].empty > 0


TEXT = """cascade(q[m,d], k[n,d], v[n,e]; t: float[:], width: int, ends: int[:])
  s[m,n] = sum[d] q[m,d] * k[n,d]
  x[m,n] = s[m,n] + {bias}  if {mask}
  lse[m] = logsumexp[n] x[m,n]
  o[m,e] = sum[n] exp(x[m,n] - lse[m]) * v[n,e]
  -> o"""


@pytest.mark.parametrize(
    ("bias", "mask", "needed"),
    [
        ("t[n]", "m >= 0", 50),
        ("t[m]", "n < 9", 30),
        ("t[n]", "m >= n", 30),
        ("t[n]", "n <= 20", 21),
        ("t[n]", "n < width", 12),
        ("t[n]", "n < ends[m]", 17),
        ("t[n]", "m - n < 9 and n - m < 4", 33),
        ("where(n < 7, t[n], 0.0)", "m >= 0", 7),
        ("where(n < 7, 0.0, t[n])", "m >= 0", 50),
        ("t[n]", "n < 4 or m > n", 29),
        ("t[min(n, 3)]", "m >= 0", 0),
    ],
)
def test_how_far_a_tensor_is_read(bias: str, mask: str, needed: int) -> None:
    every = indexed(canonicalize(parse(TEXT.format(bias=bias, mask=mask))))
    numbers = {"width": 12, "ends": torch.tensor([3, 17, 5]).repeat(10)}
    extents = {"m": 30, "n": 50}
    axis_end = 30 if "t[m]" in bias else 50
    for size in range(max(needed - 2, 0), needed + 1):
        captures = {**numbers, "t": torch.zeros(size)}
        if size < needed:
            with pytest.raises(ShapeMismatch):
                short_tensors(every, captures, extents)
        else:
            assert short_tensors(every, captures, extents) == (frozenset({("t", 0)}) if 0 < size < axis_end else frozenset())

"""Masks in random spellings: the same tiles as the plain form, the same values and gradients, rows without keys included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import attngen
from attngen import index

SCORES, VALUES = "h m d, h n d -> h m n", "h m n, h n e -> h m e"
SMALL = {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1}
SCHEDULE = {role: SMALL for role in ("forward", "backward_rows", "backward_columns")}
ROWS, KEYS, WIDTH = 40, 52, 16
INF = float("inf")
SCALE = 0.3  # captured: a number of the call, of any sign as far as a trace knows
Predicate = Callable[[Any, Any], Any]
MASKS: dict[str, Predicate] = {
    "past": lambda m, n: m >= n,
    "late": lambda m, n: (m > n + 3) & (n >= 2),
    "window": lambda m, n: (m - n < 11) & (n - m < 5),
    "blocks": lambda m, n: (m // 16 == n // 16) & (m % 8 != 7),
    "first keys": lambda m, n: (n < 20) & (m < 30),
}


def _length() -> Any:
    return attngen.extent("d")


Spelling = Callable[[Any, Any], Any]
MASKED: tuple[Spelling, ...] = (
    lambda p, x: attngen.where(p, x, -INF),
    lambda p, x: torch.where(~p, -torch.inf, x),
    lambda p, x: x.masked_fill(~p, float("-inf")),
    lambda p, x: x + torch.where(p, 0.0, torch.tensor(-INF)),
    lambda p, x: attngen.where(~p, -INF, 0.0) + x,
    lambda p, x: -attngen.where(p, -x, INF),
    lambda p, x: x - attngen.where(p, 0.0, INF),
    lambda p, x: attngen.where(p, x * _length() ** 0.5, -INF) * _length() ** -0.5,
    lambda p, x: attngen.where(p, x * _length(), -INF) / _length(),
    lambda p, x: 3 * (attngen.where(p, x, -INF) / 3),
    lambda p, x: attngen.where(p, x, -INF) * (_length() * _length()) / torch.square(_length()),
    lambda p, x: attngen.where(p, x * -0.5, INF) * -2.0,
    lambda p, x: attngen.where(p, x / SCALE, -INF) * SCALE,
    lambda p, x: attngen.where(p, x * SCALE, -INF) / SCALE,
    lambda p, x: x + torch.log(p * 1.0),
    lambda p, x: attngen.where(p, attngen.where(p, x, -INF), -INF),
    lambda p, x: torch.minimum(x, attngen.where(p, INF, -INF)),
    lambda p, x: attngen.where(p, x * attngen.exp(x * 0.0), -INF) * attngen.exp(attngen.where(p, 0.0, 1.0)),
)
"""x where p, minus infinity elsewhere."""
ZEROED: tuple[Spelling, ...] = (
    lambda p, x: attngen.where(p, x, 0.0),
    lambda p, x: torch.where(~p, 0.0, x),
    lambda p, x: x.masked_fill(~p, 0.0),
    lambda p, x: x * p,
    lambda p, x: p.float() * x,
    lambda p, x: -attngen.where(p, -x, 0.0),
    lambda p, x: attngen.where(p, x * 2, 0.0) / 2,
    lambda p, x: x * attngen.where(p, 1.0, 0.0),
    lambda p, x: attngen.where(p, attngen.where(p, x, 7.0), 0.0),
    lambda p, x: torch.where(~p, 0.0, x) + attngen.where(p, 0.0, 0.0),
)
"""x where p, 0 elsewhere."""


@dataclass(frozen=True)
class Family:
    """A cascade of q, k, v and a gate by how it masks; what it is in PyTorch, given a dense mask."""

    build: Callable[[Any, Callable[[Any], Any], Callable[[Any], Any]], Any]
    dense: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _softmax(t: Any, low: Callable[[Any], Any], zero: Callable[[Any], Any]) -> Any:
    s = attngen.einsum(SCORES, t.q, t.k) * attngen.extent("d") ** -0.5
    return attngen.einsum(VALUES, attngen.softmax(low(s), over="n"), t.v)


def _gated(t: Any, low: Callable[[Any], Any], zero: Callable[[Any], Any]) -> Any:
    return attngen.einsum(VALUES, zero(attngen.einsum(SCORES, t.q, t.k)) * attngen.exp(t.g), t.v)


def _sigmoid(t: Any, low: Callable[[Any], Any], zero: Callable[[Any], Any]) -> Any:
    return attngen.einsum(VALUES, attngen.sigmoid(low(attngen.einsum(SCORES, t.q, t.k))), t.v)


def _given(t: Any, low: Callable[[Any], Any], zero: Callable[[Any], Any]) -> Any:
    return attngen.einsum(VALUES, attngen.exp(low(attngen.einsum(SCORES, t.q, t.k)) - 2.0), t.v)


def _normalized(t: Any, low: Callable[[Any], Any], zero: Callable[[Any], Any]) -> Any:
    weights = zero(attngen.relu(attngen.einsum(SCORES, t.q, t.k)))
    return attngen.divide_or_zero(attngen.einsum(VALUES, weights, t.v), attngen.sum(weights, over="n"))


def _safe(weights: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.where(p, weights, 0.0)


def _dense_softmax(q: Any, k: Any, v: Any, g: Any, p: Any) -> torch.Tensor:
    some = p.any(-1, keepdim=True)
    return _safe(torch.softmax((q @ k.mT / WIDTH**0.5).masked_fill(~p & some, -INF), -1), p) @ v


def _dense_normalized(q: Any, k: Any, v: Any, g: Any, p: Any) -> torch.Tensor:
    weights = _safe(torch.relu(q @ k.mT), p)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.0, weights @ v / torch.where(total == 0, 1.0, total))


FAMILIES = {
    "softmax": Family(_softmax, _dense_softmax),
    "gated": Family(_gated, lambda q, k, v, g, p: _safe(q @ k.mT * g.exp()[:, None], p) @ v),
    "sigmoid": Family(_sigmoid, lambda q, k, v, g, p: _safe(torch.sigmoid(q @ k.mT), p) @ v),
    "a known shift": Family(_given, lambda q, k, v, g, p: _safe(torch.exp(q @ k.mT - 2), p) @ v),
    "normalized": Family(_normalized, _dense_normalized),
}


@dataclass(frozen=True)
class _Given:
    q: Any
    k: Any
    v: Any
    g: Any


def compiled(family: Family, mask: Predicate, in_scores: Spelling, in_weights: Spelling) -> attngen.Attention:
    """The family under a mask in one spelling."""

    @attngen.cascade(q="h m d", k="h n d", v="h n e", g="h n")
    def spec(q: Any, k: Any, v: Any, g: Any) -> Any:
        p = mask(index("m"), index("n"))
        return family.build(_Given(q, k, v, g), lambda x: in_scores(p, x), lambda x: in_weights(p, x))

    return attngen.compile(spec, arch="sm90", schedule=SCHEDULE)


def tiles(attend: attngen.Attention) -> list[dict[str, Any]]:
    return [item.as_dict() for item in attend.mask_tiles(q_len=200, kv_len=230, head_dim=WIDTH)]


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(*(st.sampled_from(names) for names in (sorted(FAMILIES), sorted(MASKS), MASKED, ZEROED)), st.integers(0, 10**6))
def test_every_spelling_is_the_plain_form(family: str, mask: str, in_scores: Spelling, in_weights: Spelling, seed: int) -> None:
    plain, spelled = (compiled(FAMILIES[family], MASKS[mask], *how) for how in ((MASKED[0], ZEROED[0]), (in_scores, in_weights)))
    assert tiles(spelled) == tiles(plain)
    assert any(item["empty"] for item in tiles(spelled))
    p = MASKS[mask](torch.arange(ROWS)[:, None], torch.arange(KEYS))
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, ROWS, WIDTH), (1, KEYS, WIDTH), (1, KEYS, WIDTH), (1, KEYS))
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    uses_gate = family == "gated"
    given_ = tensors if uses_gate else tensors[:3]
    expected = FAMILIES[family].dense(*tensors, p)
    cotangent = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    right = torch.autograd.grad(expected, given_, cotangent)
    for run in (spelled, spelled.reference):
        found = run(*tensors)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for mine, other in zip(torch.autograd.grad(found, given_, cotangent), right, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)

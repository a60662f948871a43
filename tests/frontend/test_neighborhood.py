from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import attngen
from attngen.errors import ArgumentError

SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}


def along(length: int, window: int, dilation: int, causal: bool) -> np.ndarray:
    """[queries, keys] of one axis, counted out on the positions that a query reaches in steps."""
    allowed = np.zeros((length, length), bool)
    for query in range(length):
        reach = [place for place in range(length) if (place - query) % dilation == 0]
        here = reach.index(query)
        if causal:
            keys = reach[max(here - window + 1, 0) : here + 1]
        else:
            start = min(max(here - window // 2, 0), len(reach) - window)
            keys = reach[start : start + window]
        allowed[query, keys] = True
    return allowed


def dense(lengths: tuple[int, ...], windows: tuple[int, ...], dilations: tuple[int, ...], causal: tuple[bool, ...]) -> torch.Tensor:
    axes = [along(*axis) for axis in zip(lengths, windows, dilations, causal, strict=True)]
    tokens = list(product(*(range(length) for length in lengths)))
    return torch.tensor([[all(axis[i, j] for axis, i, j in zip(axes, q, k, strict=True)) for k in tokens] for q in tokens])


CASES = {
    "one axis": ((37,), (7,), (1,), (False,)),
    "one axis, dilated": ((38,), (5,), (3,), (False,)),
    "one causal axis, dilated": ((31,), (4,), (2,), (True,)),
    "an even window": ((9, 7), (4, 3), (1, 1), (False, False)),
    "two axes, one dilated": ((9, 11), (3, 5), (1, 2), (False, False)),
    "as wide as the axis": ((5, 8), (5, 3), (1, 1), (False, False)),
    "three axes, causal in time": ((4, 5, 6), (2, 3, 3), (1, 1, 2), (True, False, False)),
}


@pytest.mark.kernels
@pytest.mark.parametrize("name", CASES)
def test_neighborhoods(name: str) -> None:
    lengths, windows, dilations, causal = CASES[name]
    mask = attngen.grid(*lengths).neighborhood(windows, dilation=dilations, causal=causal)
    allowed = dense(lengths, windows, dilations, causal)
    count = len(allowed)
    places = torch.arange(count)
    assert torch.equal(mask(0, 0, places[:, None], places[None, :]), allowed)
    if not any(causal):
        assert (allowed.sum(1) == int(np.prod(windows))).all()

    attend = attngen.compile(attngen.attention(mask_mod=mask, name="near"), arch="sm90", schedule=SMALL)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, count, 16, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = torch.softmax((q @ k.transpose(-1, -2) / 4).masked_fill(~allowed, float("-inf")), -1) @ v
    found = attend(q, k, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for mine, right in zip(
        torch.autograd.grad(found, (q, k, v), cotangent), torch.autograd.grad(expected, (q, k, v), cotangent), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)


def test_what_does_not_fit() -> None:
    with pytest.raises(ArgumentError, match="has no tokens"):
        attngen.grid(4, 0)
    with pytest.raises(ArgumentError, match="3 entries for 2 axes"):
        attngen.grid(4, 4).neighborhood((1, 1, 1))
    with pytest.raises(ArgumentError, match="a window of 3 with dilation 2 does not fit an axis of 5"):
        attngen.grid(5).neighborhood(3, dilation=2)

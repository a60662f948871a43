"""Dropout through the public calls: one mask for forward and backward whatever the tiles, seeds, inference, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import attngen
from attngen.errors import ArgumentError
from attngen.ir.eval.philox import BITS, random_bits
from tests.e2e.dense import FEW, normal

B, G, R, M, N, D, E = 2, 1, 2, 37, 45, 16, 24
H = G * R
RATE = 0.3
TILES = [{"BLOCK_M": 64, "BLOCK_N": 64}, {"BLOCK_M": 16, "BLOCK_N": 32}]


def near(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx + 8 >= kv_idx


def leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(B, H, M, D, dtype=dtype), normal(B, G, N, D, seed=1, dtype=dtype), normal(B, G, N, E, seed=2, dtype=dtype)]


def kept(seed: int) -> Tensor:
    """Factors of all weights, made from positions alone."""
    head = (torch.arange(B)[:, None] * H + torch.arange(H))[..., None, None]
    bits = random_bits(torch.tensor(seed), head, torch.arange(M)[:, None], torch.arange(N))
    return (bits >= round(RATE * 2**BITS)).double() / (1 - RATE)


def dense(q: Tensor, k: Tensor, v: Tensor, seed: int) -> Tensor:
    """Attention as PyTorch would write it, with the mask of a seed."""
    k, v = (x.repeat_interleave(R, 1) for x in (k, v))
    scores = (q @ k.mT * D**-0.5).masked_fill(torch.arange(M)[:, None] + 8 < torch.arange(N), float("-inf"))
    return torch.softmax(scores, -1) * kept(seed) @ v


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_forward_and_gradients_share_one_mask(tile: dict[str, int]) -> None:
    """Grouped heads, a mask and odd lengths; every tile against dense PyTorch."""
    attend = attngen.compile(attngen.attention(mask_mod=near, dropout=RATE), schedule=tile)
    tensors = leaves()
    out, lse = attend(*tensors, seed=5, return_lse=True)
    plain = attend(*tensors, return_lse=True, training=False)[1]
    assert torch.equal(lse, plain)
    right = dense(*tensors, seed=5)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for mine, golden in zip(
        (out, *torch.autograd.grad(out, tensors, cotangent)), (right, *torch.autograd.grad(right, tensors, cotangent)), strict=True
    ):
        assert (mine - golden).abs().max() < 1e-12 * max(1.0, golden.abs().max().item())


MASKED = {
    "window": lambda b, h, q, k: (q >= k) & (q - k < 13),
    "two pieces": lambda b, h, q, k: (q >= k) & ((k < 4) | (q - k < 12)),
    "listed": lambda b, h, q, k: (q * 7 // 5 % 4) == (k * 7 // 5 % 4),
    "dilated": lambda b, h, q, k: ((q - k) % 4 == 0) & (abs(q - k) < 40),
}


@pytest.mark.parametrize("mask", MASKED)
def test_however_tiles_are_walked(mask: str) -> None:
    attend = attngen.compile(attngen.attention(mask_mod=MASKED[mask], dropout=RATE), schedule={"BLOCK_M": 16, "BLOCK_N": 16})
    tensors = [normal(1, 1, 75, 16, seed=seed) for seed in range(3)]
    out = attend(*tensors, seed=1)
    right = attend.reference(*tensors, seed=1)
    for mine, golden in zip(
        (out, *torch.autograd.grad(out.sum(), tensors)), (right, *torch.autograd.grad(right.sum(), tensors)), strict=True
    ):
        assert (mine - golden).abs().max() < 1e-12


def test_finite_differences_with_a_seed() -> None:
    attend = attngen.compile(attngen.attention(mask_mod=near, dropout=RATE), schedule=FEW)
    tensors = [normal(1, 2, 7, 4), normal(1, 2, 9, 4, seed=1), normal(1, 2, 9, 4, seed=2)]
    assert torch.autograd.gradcheck(lambda *x: attend(*x, seed=11), tensors, fast_mode=True, nondet_tol=0.0)


ATTEND = attngen.compile(attngen.attention(mask_mod=near, dropout=RATE), schedule=FEW)


def test_seeds_come_from_the_generator_of_torch() -> None:
    tensors = leaves()
    torch.manual_seed(1)
    first, seed = ATTEND(*tensors, return_seed=True)
    second = ATTEND(*tensors)
    torch.manual_seed(1)
    assert torch.equal(ATTEND(*tensors), first)
    assert not torch.equal(first, second)
    assert (seed.dtype, seed.shape) == (torch.int64, ())
    for given in (seed, seed.item(), seed.clone()):
        assert torch.equal(ATTEND(*tensors, seed=given), first)
    torch.testing.assert_close(ATTEND.reference(*tensors, seed=seed), first, rtol=1e-12, atol=1e-12)
    out, lse, again = ATTEND(*tensors, seed=seed, return_lse=True, return_seed=True)
    assert torch.equal(out, first)
    assert lse.shape == (B, H, M)
    assert again == seed


def test_inference_is_the_plain_variant() -> None:
    tensors = leaves()
    plain = attngen.compile(attngen.attention(mask_mod=near), schedule=FEW)
    assert torch.equal(ATTEND(*tensors, training=False), plain(*tensors))
    assert torch.equal(plain(*tensors, training=True), plain(*tensors, training=False))
    assert torch.equal(ATTEND.reference(*tensors, training=False), plain.reference(*tensors))


def test_recomputed_activations_drop_the_same() -> None:
    tensors = leaves()
    torch.manual_seed(4)
    plain = torch.autograd.grad(ATTEND(*tensors).square().sum(), tensors)
    torch.manual_seed(4)
    checkpointed = checkpoint(ATTEND, *tensors, use_reentrant=False)
    for mine, right in zip(torch.autograd.grad(checkpointed.square().sum(), tensors), plain, strict=True):
        assert torch.equal(mine, right)


def test_traced_by_the_compiler_of_torch() -> None:
    tensors = leaves()
    traced = torch.compile(lambda *x: ATTEND(*x, return_seed=True), backend="aot_eager", fullgraph=True)
    out, seed = traced(*tensors)
    assert torch.equal(out, ATTEND(*tensors, seed=seed))
    assert traced(*tensors)[1] != seed
    mine, right = (torch.autograd.grad(x.square().sum(), tensors) for x in (out, ATTEND.reference(*tensors, seed=seed)))
    for one, other in zip(mine, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def two_draws(q: Any, k: Any, v: Any) -> Any:
    p = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k), over="n")
    o = attngen.einsum("b h m n, b h n e -> b h m e", attngen.dropout(p, 0.5), v)
    return {"o": attngen.dropout(o, 0.2), "other": attngen.einsum("b h m n, b h n e -> b h m e", attngen.dropout(p, 0.5), v)}


def test_values_of_a_cascade() -> None:
    """Weights twice with different bits, and rows of features."""
    attend = attngen.compile(two_draws, schedule=FEW)
    tensors = [normal(1, 2, 20, 16), normal(1, 2, 30, 16, seed=1), normal(1, 2, 30, 24, seed=2)]
    found, seed = attend(*tensors, return_seed=True)
    right = attend.reference(*tensors, seed=seed)
    assert (found["o"] == 0).double().mean() > 0.1
    mine = [*found.values(), *torch.autograd.grad(list(found.values()), tensors, [torch.ones_like(x) for x in found.values()])]
    golden = [*right.values(), *torch.autograd.grad(list(right.values()), tensors, [torch.ones_like(x) for x in right.values()])]
    for one, other in zip(mine, golden, strict=True):
        assert (one - other).abs().max() < 1e-12 * max(1.0, other.abs().max().item())
    assert set(attend(*tensors, training=False)) == {"o", "other"}


@pytest.mark.parametrize("seed", [1.0, "1", True, 2**63, torch.tensor(1.0), torch.zeros(2, dtype=torch.int64)])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(ArgumentError, match="the seed"):
        ATTEND(*leaves(), seed=seed)


def test_no_seed_where_nothing_is_dropped() -> None:
    plain = attngen.compile(attngen.attention(), schedule=FEW)
    for attend in (plain, ATTEND):
        with pytest.raises(ArgumentError, match="has none"):
            attend(*leaves(), return_seed=True, training=False)
    with pytest.raises(ArgumentError, match="takes no seed"):
        plain(*leaves(), seed=1)

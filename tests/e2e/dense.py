"""Attention as anyone would write it in dense PyTorch, mods included: the oracle of this folder, which shares no code with attngen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

Mod = Callable[..., Any]
FEW = {"BLOCK_M": 64, "BLOCK_N": 64}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """N(0, 1) values that want a gradient."""
    generator = torch.Generator().manual_seed(seed + 7 * sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def attention(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod | None = None, mask_mod: Mod | None = None) -> Tensor:
    """Softmax attention with FlexAttention's mods, differentiable in everything the mods close over.

    Args:
        q: [B, H, M, D]. k, v: [B, G, N, D] with H a multiple of G.
    """
    batch, heads, rows, depth = q.shape
    k, v = (tensor.repeat_interleave(heads // tensor.shape[1], 1) for tensor in (k, v))
    scores = q @ k.transpose(-1, -2) * depth**-0.5
    if score_mod is not None:
        scores = on_grid(score_mod)(scores, *(torch.arange(size) for size in (batch, heads, rows, k.shape[2])))
    if mask_mod is not None:
        mask = create_mask(mask_mod, batch, heads, rows, k.shape[2], device="cpu")
        scores = scores.masked_fill(~mask, float("-inf"))
        weights = torch.softmax(scores, -1).masked_fill(~mask.any(-1, keepdim=True), 0.0)
    else:
        weights = torch.softmax(scores, -1)
    return weights @ v


def on_grid(score_mod: Mod) -> Mod:
    """A score mod of one score and its position, for a whole [B, H, M, N] tensor of scores."""
    mapped = score_mod
    for position in (4, 3, 2, 1):
        mapped = torch.vmap(mapped, in_dims=(0, *(0 if place == position else None for place in (1, 2, 3, 4))))
    return mapped


def gradients(output: Tensor, leaves: Sequence[Tensor], seed: int = 1) -> tuple[Tensor, ...]:
    """Gradients of a random projection of the output."""
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(output.dtype)
    return torch.autograd.grad(output, list(leaves), cotangent)


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-10) -> None:
    """Every element within `tolerance` of the largest expected one."""
    for position, (mine, right) in enumerate(zip(found, expected, strict=True)):
        assert mine.shape == right.shape, f"value {position} has shape {tuple(mine.shape)}, expected {tuple(right.shape)}"
        error = (mine - right).abs().max().item() if mine.numel() else 0.0
        scale = max(right.abs().max().item(), 1.0) if right.numel() else 1.0
        assert error <= tolerance * scale, f"value {position} is off by {error:.2e}"

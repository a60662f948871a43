"""Combines attention results over disjoint sets of keys."""

from __future__ import annotations

import torch
from torch import Tensor

from attngen.errors import ShapeMismatch


def merge(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint sets of keys, from the results over each.

    Args:
        o1, o2: [..., N, D]. lse1, lse2: [..., N], natural; -inf where a row saw no key.

    Returns:
        (o, lse) of the same shapes; differentiable.
    """
    if o1.shape != o2.shape or lse1.shape != lse2.shape or o1.shape[:-1] != lse1.shape:
        raise ShapeMismatch(
            f"merge takes two pairs of equal shapes, got {tuple(o1.shape)}, {tuple(lse1.shape)}, {tuple(o2.shape)}, {tuple(lse2.shape)}"
        )
    # Not torch.logaddexp, whose gradient is NaN where both sides are -inf.
    peak = torch.maximum(lse1, lse2).detach()
    none = peak == float("-inf")
    peak = torch.where(none, 0.0, peak)
    w1, w2 = torch.exp(lse1 - peak), torch.exp(lse2 - peak)
    total = torch.where(none, 1.0, w1 + w2)
    lse = torch.where(none, float("-inf"), torch.log(total) + peak)
    o = (w1 / total).unsqueeze(-1) * o1 + (w2 / total).unsqueeze(-1) * o2
    return o.to(o1.dtype), lse

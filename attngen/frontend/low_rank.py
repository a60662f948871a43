"""Low-rank biases: two factors in place of an Nq x Nkv matrix, and the factorization of a given matrix.

Takes captured factors; gives a function of positions for a score mod, whose values are a second, small dot of queries and keys. Gradients
reach the factors directly: no Nq x Nkv tensor exists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngen.errors import ArgumentError


class LowRank:
    """`sum_r phi[..., q_idx, r] * psi[..., kv_idx, r]` as a function of (b, h, q_idx, kv_idx). Made by `low_rank`."""

    def __init__(self, phi: Tensor, psi: Tensor) -> None:
        self.phi = phi
        self.psi = psi

    def __call__(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        """The bias at a pair of positions, in a score mod."""
        return _row(self.phi, (b, h, q_idx)).dot(_row(self.psi, (b, h, kv_idx)))


def low_rank(phi: Tensor, psi: Tensor) -> LowRank:
    """A bias given by two factors, to be added to a score: `score + bias(b, h, q_idx, kv_idx)`.

    Args:
        phi: floats [Nq, R], [Hq, Nq, R] or [B, Hq, Nq, R]; B and Hq may be 1. It may require a gradient.
        psi: floats [Nkv, R], [Hq, Nkv, R] or [B, Hq, Nkv, R]; B and Hq may be 1. It may require a gradient.

    Raises:
        ArgumentError: the factors have other shapes, or differ in R.
    """
    for name, factor in (("phi", phi), ("psi", psi)):
        if not isinstance(factor, Tensor) or factor.dim() not in (2, 3, 4) or not factor.is_floating_point():
            given = f"{tuple(factor.shape)}, {factor.dtype}" if isinstance(factor, Tensor) else type(factor).__name__
            raise ArgumentError(f"low_rank takes float factors [..., N, R], {name} is {given}", remedy="Leading axes are Hq, or B and Hq.")
    pairs = zip(reversed(phi.shape[:-2]), reversed(psi.shape[:-2]), strict=False)
    if phi.shape[-1] != psi.shape[-1] or phi.shape[-1] == 0 or any(a != b and 1 not in (a, b) for a, b in pairs):
        raise ArgumentError(
            f"factors of shapes {tuple(phi.shape)} and {tuple(psi.shape)} do not match",
            remedy="Both end in the same R >= 1, and their leading axes are equal or 1.",
        )
    return LowRank(phi, psi)


def _row(factor: Tensor, positions: tuple[Any, Any, Any]) -> Any:
    """The features at a position; an axis of length 1 is broadcast."""
    mine = positions[len(positions) + 1 - factor.dim() :]
    sizes = (*factor.shape[:-2], None)
    return factor[tuple(0 if size == 1 else position for position, size in zip(mine, sizes, strict=True))]


class Factored(NamedTuple):
    """Factors of a matrix, their rank R, and the largest absolute difference between `phi @ psi.mT` and the matrix."""

    phi: Tensor
    psi: Tensor
    rank: int
    error: float


def factor(bias: Tensor, error: float, *, max_rank: int | None = None) -> Factored:
    """Factors of the smallest rank that reproduce a dense bias up to a given error, by SVD.

    Args:
        bias: finite floats [.., Nq, Nkv].
        error: largest absolute difference allowed in any element, with the factors rounded to the dtype of `bias`.
        max_rank: the largest rank allowed; min(Nq, Nkv) by default.

    Returns:
        phi [.., Nq, R] and psi [.., Nkv, R] without gradients, R, and the error reached.

    Raises:
        ArgumentError: `bias` is no such tensor, `error` is not positive, or no allowed rank reaches it.
    """
    if not isinstance(bias, Tensor) or bias.dim() < 2 or not bias.is_floating_point() or not bias.numel():
        raise ArgumentError("factor takes a tensor of floats [.., Nq, Nkv]", remedy="Pass the bias that would be added to the scores.")
    exact = bias.detach().double()
    if not bool(exact.isfinite().all()) or not error > 0.0:
        raise ArgumentError(
            f"factor needs a finite bias and an error above 0, got error={error}",
            remedy="Mask pairs with mask_mod instead of minus infinity.",
        )
    most = min(exact.shape[-2:]) if max_rank is None else min(max_rank, *exact.shape[-2:])
    u, s, vh = torch.linalg.svd(exact, full_matrices=False)
    left, right = u * s.sqrt().unsqueeze(-2), vh.mT * s.sqrt().unsqueeze(-2)
    product, reached = torch.zeros_like(exact), float(exact.abs().max())
    for rank in range(1, most + 1):
        product += left[..., rank - 1 : rank] @ right[..., rank - 1 : rank].mT
        if float((product - exact).abs().max()) > error:
            reached = min(reached, float((product - exact).abs().max()))
            continue
        phi, psi = (side[..., :rank].to(bias.dtype).contiguous() for side in (left, right))
        rounded = float((phi.double() @ psi.double().mT - exact).abs().max())
        if rounded <= error:
            return Factored(phi, psi, rank, rounded)
        reached = min(reached, rounded)
    kind = str(bias.dtype).removeprefix("torch.")
    raise ArgumentError(
        f"factors of up to rank {most} and dtype {kind} reach an error of {reached:.2e}, not {error:.2e}",
        remedy="Allow a larger error or rank, factor in a wider dtype, or add the dense bias.",
    )

"""Factors of a bias: what they may look like, and how good those of a dense bias are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.errors import ArgumentError
from attngen.frontend.spec import captured_lengths
from attngen.plan.feature_lengths import feature_lengths


def smooth(dtype: torch.dtype = torch.float64) -> Tensor:
    """A bump along the diagonal, wider from head to head: of low rank, but of no exact one."""
    distance = torch.arange(60.0, dtype=torch.float64)[:, None] - torch.arange(80.0)[None, :]
    return torch.stack([torch.exp(-((distance / (30 * (head + 1))) ** 2)) for head in range(3)]).to(dtype)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_the_error_asked_for_is_reached(dtype: torch.dtype, error: float) -> None:
    bias = smooth(dtype)
    found = attngen.factor(bias, error)
    reached = (found.phi.double() @ found.psi.double().mT - bias.double()).abs().max().item()
    assert found.error == reached <= error
    assert found.phi.shape == (3, 60, found.rank)
    assert found.psi.shape == (3, 80, found.rank)
    assert found.phi.dtype == found.psi.dtype == dtype
    assert found.rank < 20
    with pytest.raises(ArgumentError, match=f"rank {found.rank - 1}"):
        attngen.factor(bias, error, max_rank=found.rank - 1)


def test_a_bias_of_a_rank_has_that_rank() -> None:
    phi, psi = torch.randn(2, 3, 20, 4, dtype=torch.float64), torch.randn(2, 3, 30, 4, dtype=torch.float64)
    assert attngen.factor(phi @ psi.mT, 1e-12).rank == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_error_below_the_roundoff_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ArgumentError, match="reach an error of"):
        attngen.factor(smooth(dtype), 1e-12)


@pytest.mark.parametrize(
    ("bias", "error"),
    [
        (torch.zeros(5), 0.1),
        (torch.zeros(5, 5, dtype=torch.int64), 0.1),
        (torch.zeros(0, 5), 0.1),
        (torch.full((5, 5), float("-inf")), 0.1),
        (torch.zeros(5, 5), 0.0),
        (torch.zeros(5, 5), float("nan")),
    ],
)
def test_what_cannot_be_factored(bias: Tensor, error: float) -> None:
    with pytest.raises(ArgumentError):
        attngen.factor(bias, error)


@pytest.mark.parametrize(
    ("phi", "psi"),
    [((7, 3), (9, 4)), ((7, 0), (9, 0)), ((7,), (9,)), ((2, 7, 3), (3, 9, 3)), ((1, 1, 1, 7, 3), (9, 3))],
)
def test_factors_without_a_product(phi: tuple[int, ...], psi: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError):
        attngen.low_rank(torch.zeros(phi), torch.zeros(psi))


@pytest.mark.parametrize("phi", [torch.zeros(7, 3, dtype=torch.int64), [[1.0]]])
def test_factors_are_floats(phi: Any) -> None:
    with pytest.raises(ArgumentError):
        attngen.low_rank(phi, torch.zeros(9, 3))


def test_it_is_a_product_of_rows_and_columns() -> None:
    bias = attngen.low_rank(torch.zeros(1, 4, 7, 3), torch.zeros(9, 3))
    spec = attngen.attention(lambda score, b, h, q_idx, kv_idx: score + bias(b, h, q_idx, kv_idx))
    assert "dot[g,r,m,n] = sum[f] phi[0,g * extent(r) + r,m,f] * psi[n,f]" in str(spec.cascade)
    assert captured_lengths(spec)["f"] == 3
    assert feature_lengths(("d", "e", "f"), 64, captured_lengths(spec)) == {"d": 64, "e": 64, "f": 3}

"""Gradients against finite differences of the kernels' own forward, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels import cases, harness

SIZES = cases.Sizes(b=1, g=1, r=2, m=9, n=12, d=5, e=3)


class Attend(torch.autograd.Function):
    """Forward and backward of an emitted module as one operation of its floating inputs."""

    @staticmethod
    def forward(ctx: Any, kernels: harness.Emitted, case: cases.Case, *floating: Tensor) -> tuple[Tensor, ...]:
        values = {**case.values, **dict(zip(kernels.targets, floating, strict=True))}
        known = harness.forward(kernels, values, harness.tiles(16, 16))
        ctx.given = kernels, values, known
        return tuple(known[name] for name in kernels.cascade.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kernels, values, known = ctx.given
        cotangents = {name: grad.contiguous() for name, grad in zip(kernels.cascade.outputs, grads, strict=True)}
        found = harness.backward(kernels, values, known, cotangents, harness.tiles(16, 16))
        return (None, None, *(found[name] for name in kernels.targets))


@pytest.mark.parametrize("variant", cases.ALL)
def test_gradcheck(variant):
    case = cases.case(variant, SIZES, seed=5, overrides={"width": 4} if "width: int" in cases.ALL[variant] else None)
    kernels = harness.prepare(case.cascade, case.values)
    leaves = [case.values[name].clone().requires_grad_() for name in kernels.targets]

    def finite(*floating: Tensor) -> tuple[Tensor, ...]:
        """A logsumexp of nothing is minus infinity, which has no difference."""
        return tuple(torch.where(value.isinf(), 0.0, value) for value in Attend.apply(kernels, case, *floating))

    assert torch.autograd.gradcheck(finite, leaves, fast_mode=True)

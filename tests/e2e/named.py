"""Dense PyTorch over named axes: the oracle of random cascades, which shares no code with attngen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ORDER = "bgrmnde"


@dataclass(frozen=True)
class Named:
    """A tensor whose dimensions are the axes `axes`, in the order of `ORDER`."""

    data: Tensor
    axes: str

    def over(self, axes: str) -> Tensor:
        """Its data with a dimension for each of `axes`, of length 1 where it lacks one."""
        return self.data[tuple(slice(None) if axis in self.axes else None for axis in axes)]

    def __add__(self, other: Named | float) -> Named:
        return _met(torch.add, self, other)

    def __sub__(self, other: Named | float) -> Named:
        return _met(torch.sub, self, other)

    def __mul__(self, other: Named | float) -> Named:
        return _met(torch.mul, self, other)

    def __truediv__(self, other: Named | float) -> Named:
        return _met(torch.div, self, other)

    def sum(self, axis: str) -> Named:
        return Named(self.data.sum(self.axes.index(axis)), self.axes.replace(axis, ""))

    def softmax(self, axis: str) -> Named:
        return Named(self.data.softmax(self.axes.index(axis)), self.axes)


def _union(*axes: str) -> str:
    return "".join(axis for axis in ORDER if any(axis in own for own in axes))


def _met(operation: Callable[..., Tensor], a: Named, b: Named | float) -> Named:
    if not isinstance(b, Named):
        return Named(operation(a.data, b), a.axes)
    axes = _union(a.axes, b.axes)
    return Named(operation(a.over(axes), b.over(axes)), axes)


def contract(axes: str, *values: Named) -> Named:
    """Multiply, and sum over all axes but `axes`."""
    text = ",".join(value.axes for value in values)
    return Named(torch.einsum(f"{text}->{axes}", *(value.data for value in values)), axes)


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor], seed: int = 5) -> list[Tensor]:
    """Gradients of one random projection of all outputs; zeros where there is none."""
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype) for output in outputs]
    found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]

"""How kernels see the tokens of a call: the protocol of layouts, tokens as they are, and tokens in another order.

A layout has a cascade over its own axes. It turns arguments of a call into those of the cascade and results back. `dilated.py` and
`packed_gqa.py` have the other layouts; another one is another class with these members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.frontend.token_order import Order
from attngen.ir.cascade import Cascade
from attngen.schedule.permutation_profit import pays
from attngen.targets.table import Target

Move = Callable[[Tensor, torch.device], Any]
"""Brings a captured tensor to the device of the arguments."""


class TokenLayout(Protocol):
    """Attributes:
    spec: the user's variant.
    cascade: CanonicalForm over the axes of the layout.
    numbers: names of inputs of `cascade` that hold a length, which is known at a call.
    differentiable: whether calls with gradients may use it.
    splittable: whether it goes with split-KV.
    """

    differentiable: ClassVar[bool]
    splittable: ClassVar[bool]

    @property
    def spec(self) -> Spec: ...
    @property
    def cascade(self) -> Cascade: ...
    @property
    def numbers(self) -> tuple[str, ...]: ...
    def split(self, tensors: Sequence[Tensor], extents: Mapping[str, int], move: Move) -> list[Tensor]:
        """Arguments of the user, one dimension an axis, as arguments of the cascade, in the same order.

        Raises:
            ShapeMismatch: the layout is for other lengths.
        """
        ...

    def join(self, name: str, result: Tensor, extents: Mapping[str, int], move: Move) -> Tensor:
        """An output of the cascade as the user's, one dimension an axis; contiguous."""
        ...

    def extents(self, extents: Mapping[str, int]) -> dict[str, int]:
        """Lengths of all axes of the cascade, from those of the user's axes."""
        ...

    def lengths(self, extents: Mapping[str, int]) -> dict[str, int]:
        """Values of `numbers`, from the lengths of the user's axes."""
        ...

    def pays(self, extents: Mapping[str, int], target: Target) -> bool:
        """Whether a call with these lengths is predicted to be faster than with the tokens as they are."""
        ...

    def describe(self, target: Target) -> str:
        """For `explain`; "" where there is nothing to say."""
        ...

    def __str__(self) -> str:
        """A few words, for plans."""
        ...


@dataclass(frozen=True, slots=True)
class Dense:
    """Tokens as they are."""

    spec: Spec
    cascade: Cascade
    differentiable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    @property
    def numbers(self) -> tuple[str, ...]:
        return ()

    def split(self, tensors: Sequence[Tensor], extents: Mapping[str, int], move: Move) -> list[Tensor]:
        return list(tensors)

    def join(self, name: str, result: Tensor, extents: Mapping[str, int], move: Move) -> Tensor:
        return result

    def extents(self, extents: Mapping[str, int]) -> dict[str, int]:
        return dict(extents)

    def lengths(self, extents: Mapping[str, int]) -> dict[str, int]:
        return {}

    def pays(self, extents: Mapping[str, int], target: Target) -> bool:
        return True

    def describe(self, target: Target) -> str:
        spec = self.spec
        if spec.pairs is None or spec.reordered is None or spec.reordered.order is None:
            return ""
        plain, other = (f"{pairs / 1e6:.3g} million pairs" for pairs in spec.pairs)
        note = spec.reordered.order.note
        return f"as they come: about {plain} to visit; {note} {other}, which would not make up for the copies"

    def __str__(self) -> str:
        return "dense"


@dataclass(frozen=True, slots=True)
class Permuted:
    """Tokens in the order that the user asked for, or that a mask over a grid suggests. Mods see the positions they had before."""

    spec: Spec
    cascade: Cascade
    order: Order
    differentiable: ClassVar[bool] = True
    splittable: ClassVar[bool] = True

    @property
    def numbers(self) -> tuple[str, ...]:
        return ()

    def split(self, tensors: Sequence[Tensor], extents: Mapping[str, int], move: Move) -> list[Tensor]:
        self.order.check(*(extents[axis] for axis in self.order.axes))
        there = move(self.order.places, tensors[0].device), move(self.order.inverse, tensors[0].device)
        inputs = self.cascade.inputs[: len(tensors)]
        return [self._along(item.axes or (), tensor, *there) for item, tensor in zip(inputs, tensors, strict=True)]

    def join(self, name: str, result: Tensor, extents: Mapping[str, int], move: Move) -> Tensor:
        there = move(self.order.inverse, result.device), move(self.order.places, result.device)
        return self._along(self.cascade.axes(name), result, *there)

    def _along(self, axes: tuple[str, ...], tensor: Tensor, places: Tensor, inverse: Tensor) -> Tensor:
        for dim, axis in enumerate(axes):
            if axis in self.order.axes:
                tensor = _permuted(tensor, dim, places, inverse)
        return tensor

    def extents(self, extents: Mapping[str, int]) -> dict[str, int]:
        return dict(extents)

    def lengths(self, extents: Mapping[str, int]) -> dict[str, int]:
        return {}

    def pays(self, extents: Mapping[str, int], target: Target) -> bool:
        return True

    def describe(self, target: Target) -> str:
        if self.spec.pairs is None:
            return self.order.note
        plain, other = (f"{pairs / 1e6:.3g} million pairs" for pairs in self.spec.pairs)
        return f"{self.order.note}: about {other} to visit, {plain} as they come"

    def __str__(self) -> str:
        return "permuted"


class _Permutation(torch.autograd.Function):
    """`x[..., places, ...]`; the gradient goes back by the inverse permutation, so that nothing is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, places: Tensor, inverse: Tensor) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(places, inverse)
        return x.index_select(dim, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        places, inverse = ctx.saved_tensors
        return _permuted(grads[0], ctx.dim, inverse, places), None, None, None


def _permuted(x: Tensor, dim: int, places: Tensor, inverse: Tensor) -> Tensor:
    found: Tensor = _Permutation.apply(x, dim, places, inverse)  # pyright: ignore[reportUnknownMemberType, reportAssignmentType]
    return found


def best_order(spec: Spec, target: Target) -> Spec:
    """The variant with its tokens as they come, or in the order that its mask suggests, whichever is predicted to be faster."""
    other = spec.reordered
    if other is None or other.order is None or spec.pairs is None:
        return spec
    return replace(other, pairs=spec.pairs) if pays(spec.pairs, len(other.order.places), target) else spec

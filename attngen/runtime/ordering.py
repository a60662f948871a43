"""Tokens brought into the order in which kernels take them, and results brought back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.runtime.classes import describe_classes, joined, split
from attngen.runtime.packing import as_pairs, as_rows
from attngen.schedule.permutation_profit import pays
from attngen.targets.table import Target

_Move = Callable[[Tensor, torch.device], Any]


class _Permuted(torch.autograd.Function):
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
    found: Tensor = _Permuted.apply(x, dim, places, inverse)  # pyright: ignore[reportUnknownMemberType, reportAssignmentType]
    return found


def best_order(spec: Spec, target: Target) -> Spec:
    """The variant with its tokens as they come, or in the order that its mask suggests, whichever is predicted to be faster."""
    other = spec.reordered
    if other is None or other.order is None or spec.pairs is None:
        return spec
    return replace(other, pairs=spec.pairs) if pays(spec.pairs, len(other.order.places), target) else spec


def describe(spec: Spec, target: Target) -> str:
    """Which order tokens are taken in and why, for `explain`; "" where it goes without saying."""
    if spec.classes is not None:
        return describe_classes(spec.classes, target)
    if spec.pairs is None:
        return "" if spec.order is None else spec.order.note
    plain, other = (f"{pairs / 1e6:.3g} million pairs" for pairs in spec.pairs)
    if spec.order is not None:
        return f"{spec.order.note}: about {other} to visit, {plain} as they come"
    note = spec.reordered.order.note if spec.reordered is not None and spec.reordered.order is not None else "otherwise"
    return f"as they come: about {plain} to visit; {note} {other}, which would not make up for the copies"


def without_order(spec: Spec, captures: Mapping[str, object]) -> dict[str, object]:
    """Captures but for the order, which follows the arguments to their device."""
    return {name: value for name, value in captures.items() if spec.order is None or value is not spec.order.places}


def lengths(spec: Spec, extents: Mapping[str, int]) -> dict[str, int]:
    """Captures that stand for a length, which is known at a call."""
    if spec.packing is not None:
        return {spec.packing.number: extents[spec.packing.heads]}
    return {} if spec.classes is None else {spec.classes.length: extents[spec.classes.axes[1]]}


def taken(spec: Spec, tensors: Sequence[Tensor], extents: Mapping[str, int], move: _Move) -> list[Tensor]:
    """Arguments with their tokens in the order of the spec.

    Args:
        spec: the variant.
        tensors: its arguments, one dimension an axis.
        extents: of the axes.
        move: brings the order to the device of the arguments.

    Raises:
        ShapeMismatch: the order is for another length.
    """
    order = spec.order
    if spec.classes is not None:
        return split(spec, spec.classes, tensors)
    if spec.packing is not None:
        return as_rows(spec, spec.packing, tensors, extents)
    if order is None:
        return list(tensors)
    order.check(*(extents[axis] for axis in order.axes))
    there = move(order.places, tensors[0].device), move(order.inverse, tensors[0].device)
    inputs = spec.cascade.inputs[: len(tensors)]
    return [_along(item.axes or (), tensor, order.axes, *there) for item, tensor in zip(inputs, tensors, strict=True)]


def put_back(spec: Spec, name: str, result: Tensor, extents: Mapping[str, int], move: _Move) -> Tensor:
    """A result with its tokens where they were."""
    order = spec.order
    if spec.classes is not None:
        return joined(spec, spec.classes, name, result, extents)
    if spec.packing is not None:
        return as_pairs(spec, spec.packing, name, result, extents)
    if order is None:
        return result
    there = move(order.inverse, result.device), move(order.places, result.device)
    return _along(spec.cascade.axes(name), result, order.axes, *there)


def _along(axes: tuple[str, ...], tensor: Tensor, sequence: tuple[str, str], places: Tensor, inverse: Tensor) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis in sequence:
            tensor = _permuted(tensor, dim, places, inverse)
    return tensor

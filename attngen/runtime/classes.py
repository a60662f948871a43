"""Tokens in classes of equal remainder, for masks with gaps: when that pays, and how arguments and results are seen so.

Where the number of classes divides a length, arguments are views with longer strides and results views again; other lengths are filled up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from attngen.frontend.spec import Capture, Spec
from attngen.ir.classes import Classes
from attngen.schedule.permutation_profit import pays
from attngen.targets.table import Target
from attngen.transform.canonicalize import canonicalize
from attngen.transform.layout.dilation import by_remainder
from attngen.transform.layout.dilation import number_of_classes as divisor_of

_TILE = (128, 64)


def number_of_classes(spec: Spec) -> str | int:
    """How many classes the mask of a variant suggests: a number, 0 for none, or the name of a captured one."""
    return 0 if spec.order is not None or spec.blocks is not None else divisor_of(canonicalize(spec.cascade))


def in_classes(spec: Spec, numbers: Mapping[str, int] | None = None) -> Spec | None:
    """The variant with its tokens in classes of equal remainder; None where its mask does not ask for that.

    Args:
        spec: the variant.
        numbers: values of captured integers that the number of classes may be; those of the trace unless given.
    """
    if numbers is None:
        numbers = {capture.name: capture.value for capture in spec.captures if type(capture.value) is int}
    if spec.order is not None or spec.blocks is not None:
        return None
    found = by_remainder(canonicalize(spec.cascade), numbers)
    if found is None:
        return None
    cascade, classes = found
    return replace(spec, cascade=cascade, classes=classes, captures=(*spec.captures, Capture(classes.length, 0)), reordered=None)


def extents_in_classes(classes: Classes, extents: Mapping[str, int]) -> dict[str, int]:
    """Lengths of the axes of the cascade in classes that the user's tensors do not have so."""
    return {classes.axis: classes.divisor} | {axis: math.ceil(extents[axis] / classes.divisor) for axis in classes.axes}


def classes_pay(classes: Classes, extents: Mapping[str, int], target: Target) -> bool:
    """Whether tiles within classes are enough fewer than tiles of all tokens, by lengths alone; a filled up length costs copies."""
    lengths = [extents[axis] for axis in classes.axes]
    plain = other = 1
    for length, tile in zip(lengths, _TILE, strict=True):
        plain *= math.ceil(length / tile) * tile
        other *= math.ceil(length / (classes.divisor * tile)) * tile
    copied = max((length for length in lengths if length % classes.divisor), default=0)
    return pays((plain, other * classes.divisor), copied, target)


def shortest(classes: Classes, target: Target) -> int:
    """The least power of two times the number of classes from which on they pay."""
    length = classes.divisor
    while not classes_pay(classes, dict.fromkeys(classes.axes, length), target):
        length *= 2
    return length


def describe_classes(classes: Classes, target: Target) -> str:
    """For `explain`."""
    return (
        f"in {classes.divisor} classes of equal remainder, each read by strides of {classes.divisor} tokens, which leaves one tile in "
        f"{classes.divisor} to visit, for about {shortest(classes, target)} tokens and more; as they come for fewer"
    )


def split(spec: Spec, classes: Classes, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Arguments as the cascade has them: a sequence dimension becomes that of the classes and that of positions within one."""
    found: list[Tensor] = []
    for item, tensor in zip(spec.cascade.inputs, tensors, strict=False):
        axes = [axis for axis in item.axes or () if axis != classes.axis]
        for dim, axis in enumerate(axes):
            if axis in classes.axes:
                tensor = _split(tensor, dim, classes.divisor)
        found.append(tensor)
    return found


def _split(tensor: Tensor, dim: int, divisor: int) -> Tensor:
    missing = -tensor.shape[dim] % divisor
    if missing:
        tensor = F.pad(tensor, [0, 0] * (tensor.dim() - 1 - dim) + [0, missing])
    return tensor.unflatten(dim, (-1, divisor)).movedim(dim + 1, dim)


def joined(spec: Spec, classes: Classes, name: str, result: Tensor, extents: Mapping[str, int]) -> Tensor:
    """A result with one dimension for the sequence; as contiguous as every other result is."""
    axes = spec.cascade.axes(name)
    if classes.axis not in axes:
        return result
    dim = axes.index(classes.axis) - 1
    whole = result.flatten(dim, dim + 1)
    return whole.narrow(dim, 0, extents[axes[dim]]).contiguous()

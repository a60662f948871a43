"""Tokens in residue classes, for masks that hold for equal remainders only.

Where the number of classes divides a length, arguments are views with longer strides and results views again; other lengths are padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.ir.cascade import Cascade
from attngen.plan.token_layout import Move
from attngen.schedule.permutation_profit import pays
from attngen.targets.table import Target
from attngen.transform.layout.dilation import Dilation, by_remainder
from attngen.transform.layout.dilation import number_of_classes as divisor_of

_TILE = (128, 64)


@dataclass(frozen=True, slots=True)
class Dilated:
    """Tokens of one residue class are tiled among themselves: a class is an axis, read by strides of `dilation.divisor` tokens."""

    spec: Spec
    cascade: Cascade
    dilation: Dilation
    differentiable: ClassVar[bool] = True
    splittable: ClassVar[bool] = False

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.dilation.length,)

    def split(self, tensors: Sequence[Tensor], extents: Mapping[str, int], move: Move) -> list[Tensor]:
        found: list[Tensor] = []
        for item, tensor in zip(self.cascade.inputs, tensors, strict=False):
            axes = [axis for axis in item.axes or () if axis != self.dilation.axis]
            for dim, axis in enumerate(axes):
                if axis in self.dilation.axes:
                    tensor = _by_class(tensor, dim, self.dilation.divisor)
            found.append(tensor)
        return found

    def join(self, name: str, result: Tensor, extents: Mapping[str, int], move: Move) -> Tensor:
        axes = self.cascade.axes(name)
        if self.dilation.axis not in axes:
            return result
        dim = axes.index(self.dilation.axis) - 1
        whole = result.flatten(dim, dim + 1)
        return whole.narrow(dim, 0, extents[axes[dim]]).contiguous()

    def extents(self, extents: Mapping[str, int]) -> dict[str, int]:
        dilation = self.dilation
        inner = {axis: math.ceil(extents[axis] / dilation.divisor) for axis in dilation.axes}
        return {**extents, dilation.axis: dilation.divisor, **inner}

    def lengths(self, extents: Mapping[str, int]) -> dict[str, int]:
        return {self.dilation.length: extents[self.dilation.axes[1]]}

    def pays(self, extents: Mapping[str, int], target: Target) -> bool:
        """By the tiles within classes and of all tokens, for which lengths suffice; a padded length costs copies."""
        dilation = self.dilation
        lengths = [extents[axis] for axis in dilation.axes]
        plain = other = 1
        for length, tile in zip(lengths, _TILE, strict=True):
            plain *= math.ceil(length / tile) * tile
            other *= math.ceil(length / (dilation.divisor * tile)) * tile
        copied = max((length for length in lengths if length % dilation.divisor), default=0)
        return pays((plain, other * dilation.divisor), copied, target)

    def describe(self, target: Target) -> str:
        divisor = self.dilation.divisor
        return (
            f"in {divisor} classes of equal remainder, each read by strides of {divisor} tokens, which leaves one tile in "
            f"{divisor} to visit, for about {self._shortest(target)} tokens and more; as they come for fewer"
        )

    def _shortest(self, target: Target) -> int:
        """The least power of two times the number of classes from which on they pay."""
        length = self.dilation.divisor
        while not self.pays(dict.fromkeys(self.dilation.axes, length), target):
            length *= 2
        return length

    def __str__(self) -> str:
        return f"dilated by {self.dilation.divisor}"


def _by_class(tensor: Tensor, dim: int, divisor: int) -> Tensor:
    """[..., N, ...] as [..., divisor, ceil(N / divisor), ...]."""
    missing = -tensor.shape[dim] % divisor
    if missing:
        tensor = F.pad(tensor, [0, 0] * (tensor.dim() - 1 - dim) + [0, missing])
    return tensor.unflatten(dim, (-1, divisor)).movedim(dim + 1, dim)


def residue_classes(spec: Spec, cascade: Cascade) -> str | int:
    """In how many classes the tokens of a variant fall: a number, 0 for none, or the name of the captured integer that says so.

    Args:
        spec: the variant. cascade: its own, CanonicalForm.
    """
    return 0 if spec.order is not None or spec.blocks is not None else divisor_of(cascade)


def dilated(spec: Spec, cascade: Cascade, numbers: Mapping[str, int] | None = None) -> Dilated | None:
    """The layout in residue classes; None where the mask does not ask for that.

    Args:
        spec: the variant. cascade: its own, CanonicalForm.
        numbers: values of captured integers that the number of classes may be; those of the trace unless given.
    """
    if numbers is None:
        numbers = {capture.name: capture.value for capture in spec.captures if type(capture.value) is int}
    if spec.order is not None or spec.blocks is not None:
        return None
    found = by_remainder(cascade, numbers)
    return None if found is None else Dilated(spec, *found)

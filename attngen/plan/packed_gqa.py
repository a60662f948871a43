"""GQA packing, for few queries: the query heads of a group become rows of one tile, so that keys and values are read once a group.

Queries become rows by a copy of their few positions, by a view where there is one; keys and values stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attngen.errors import ArgumentError
from attngen.frontend.spec import Argument, Spec
from attngen.ir.cascade import Cascade
from attngen.plan.token_layout import Move
from attngen.schedule.space import DECODE_TOKENS
from attngen.targets.table import Target
from attngen.transform.layout.pack_gqa import HeadPacking, pack, packed_axes


@dataclass(frozen=True, slots=True)
class PackedGQA:
    """Rows are pairs of position and head of a group. Calls without gradients, of few queries, of groups of several heads."""

    spec: Spec
    cascade: Cascade
    packing: HeadPacking
    differentiable: ClassVar[bool] = False
    splittable: ClassVar[bool] = True

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.packing.number,)

    def split(self, tensors: Sequence[Tensor], extents: Mapping[str, int], move: Move) -> list[Tensor]:
        arguments = {item.name for item in self.cascade.inputs if item.axes is not None}
        return [
            self._rows(tensor, _axes(argument), extents) if argument.name in arguments else tensor
            for argument, tensor in zip(self.spec.arguments, tensors, strict=True)
        ]

    def _rows(self, tensor: Tensor, axes: tuple[str, ...], extents: Mapping[str, int]) -> Tensor:
        """What lacks positions or heads is the same for all of them."""
        rows, heads = self.packing.rows, self.packing.heads
        if rows not in axes and heads not in axes:
            return tensor
        dim = packed_axes(axes, self.packing).index(rows)
        if heads not in axes:
            pairs = tensor.unsqueeze(dim + 1).expand(*tensor.shape[: dim + 1], extents[heads], *tensor.shape[dim + 1 :])
        elif rows not in axes:
            pairs = tensor.unsqueeze(dim).expand(*tensor.shape[:dim], extents[rows], *tensor.shape[dim:])
        else:
            apart = [axis for axis in axes if axis != heads]
            pairs = tensor.movedim(axes.index(heads), len(axes) - 1).movedim(-1, apart.index(rows) + 1)
        return pairs.flatten(dim, dim + 1)

    def join(self, name: str, result: Tensor, extents: Mapping[str, int], move: Move) -> Tensor:
        """A result, which has both positions and heads."""
        rows, heads = self.packing.rows, self.packing.heads
        axes = self.cascade.axes(name)
        dim = axes.index(rows)
        pairs = result.unflatten(dim, (extents[rows], extents[heads]))
        found = (*axes[: dim + 1], heads, *axes[dim + 1 :])
        wanted = next(_axes(output) for output in self.spec.outputs if output.name == name)
        return pairs.permute([found.index(axis) for axis in wanted]).contiguous()

    def extents(self, extents: Mapping[str, int]) -> dict[str, int]:
        rows = self.packing.rows
        return {**extents, rows: extents[rows] * extents[self.packing.heads]}

    def lengths(self, extents: Mapping[str, int]) -> dict[str, int]:
        return {self.packing.number: extents[self.packing.heads]}

    def pays(self, extents: Mapping[str, int], target: Target) -> bool:
        return few(extents[self.packing.rows]) and extents.get(self.packing.heads, 1) != 1

    def describe(self, target: Target) -> str:
        rows, number = self.packing.rows, self.packing.number
        return (
            f"the query heads of a group are packed into rows: row {rows} is position {rows} // {number}, head {rows} % {number}; for up "
            f"to {DECODE_TOKENS} queries"
        )

    def group(self, heads: int, kv_heads: int) -> tuple[str, int]:
        """The axis of the heads of a group, and how many of `heads` share one of `kv_heads`.

        Raises:
            ArgumentError: groups are not equal.
        """
        if kv_heads < 1 or heads % kv_heads:
            remedy = "The number of query heads must be a multiple of the number of key heads."
            raise ArgumentError(f"{heads} query heads for {kv_heads} key heads", remedy=remedy)
        return self.packing.heads, heads // kv_heads

    def __str__(self) -> str:
        return "packed GQA"


def few(queries: int) -> bool:
    """Whether a call has so few queries that they leave tiles empty."""
    return 0 < queries <= DECODE_TOKENS


def packed_gqa(spec: Spec, cascade: Cascade) -> PackedGQA | None:
    """The layout with heads packed; None where no heads share keys and values, or tokens have an order.

    Args:
        spec: the variant. cascade: its own, CanonicalForm.
    """
    found = None if spec.order is not None else pack(cascade)
    return None if found is None else PackedGQA(spec, *found)


def _axes(argument: Argument) -> tuple[str, ...]:
    """One axis a dimension, with composite dimensions taken apart."""
    return tuple(axis for dim in argument.pattern for axis in dim)

"""Partly indexed captured tensors: an expression and the remaining dimensions.

Takes and gives a `PartialIndex`, one element of a row, matrix or larger block, whose dimensions are placeholder axes. Indexing substitutes
a placeholder, arithmetic broadcasts by renaming placeholders, a short reduction unrolls, a contraction becomes a step with a feature axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from attngen.errors import CaptureError, ReductionInMod, TracedIteration, UnsupportedOperation
from attngen.frontend.tracing.trace import Trace, substitute
from attngen.frontend.tracing.user_frames import assigned, locate, user_place
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Const, Expr, Index, kind_of
from attngen.ir.traverse import free_axes, reads
from attngen.source import naming

Dims = tuple[tuple[str, int], ...]
LONGEST_UNROLLED = 16


@dataclass(frozen=True, slots=True)
class PartialIndex:
    """One element, and a placeholder axis and length for each dimension. A dimension of length 1 may have the empty placeholder."""

    expr: Expr
    dims: Dims = ()


def broadcast(values: list[PartialIndex]) -> tuple[list[Expr], Dims]:
    """Expressions over common placeholders, aligned at the last dimension as in torch."""
    if not any(value.dims for value in values):
        return [value.expr for value in values], ()
    rank = max(len(value.dims) for value in values)
    common: list[tuple[str, int]] = []
    for back in range(rank, 0, -1):
        candidates = [value.dims[-back] for value in values if len(value.dims) >= back]
        long = [dim for dim in candidates if dim[1] != 1]
        if len({size for _, size in long}) > 1:
            shapes = " and ".join(str([size for _, size in value.dims]) for value in values)
            raise CaptureError(f"captured values of shapes {shapes} do not broadcast", remedy="Index the dimensions that do not match.")
        common.append((long or candidates)[0])
    exprs: list[Expr] = []
    for value in values:
        mapping: dict[str, Expr] = {}
        for (axis, size), (shared, length) in zip(value.dims, common[rank - len(value.dims) :], strict=True):
            if axis and axis != shared:
                mapping[axis] = Const(0, "int") if size == 1 and (length != 1 or not shared) else Index(shared)
        exprs.append(substitute(value.expr, mapping))
    return exprs, tuple(common)


def index(
    value: PartialIndex, items: tuple[Any, ...], convert: Callable[[Any], PartialIndex], observe: Callable[[str], None]
) -> PartialIndex:
    """`value[items]`: integers, traced positions, slices, None and an ellipsis.

    Args:
        value: what is indexed.
        items: as Python passes them.
        convert: makes a position of anything that is not a slice, None or an ellipsis.
        observe: called with each axis whose length decides the result.

    Raises:
        CaptureError: too many indices, a position that is not an integer, or a literal out of range.
    """
    items = _expand(items, len(value.dims))
    fresh = count()
    dims = iter(value.dims)
    left: list[tuple[str, int]] = []
    mapping: dict[str, Expr] = {}
    gathered = False
    for item in items:
        if item is None:
            left.append(("", 1))
            continue
        axis, size = next(dims)
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            length = len(range(start, stop, step))
            if item != slice(None):
                observe(axis)
            if (start, length, step) != (0, size, 1):
                moved = f"{axis}.{next(fresh)}"
                mapping[axis] = build.add(build.mul(Index(moved), Const(step, "int")), Const(start, "int"))
                axis = moved
            left.append((axis, length))
            continue
        position = convert(item)
        if position.dims and gathered:
            raise CaptureError("two partly indexed index tensors", remedy="Index the index tensors first.")
        gathered = gathered or bool(position.dims)
        if gathered and any(other is None or isinstance(other, slice) for other in items):
            raise CaptureError("a partly indexed index tensor next to a slice", remedy="Index the index tensor first.")
        if isinstance(position.expr, Const):
            observe(axis)
        mapping[axis] = _checked(position.expr, size)
        left.extend(position.dims)
    return PartialIndex(substitute(value.expr, mapping), (*left, *dims))


def _expand(items: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    consuming = sum(1 for item in items if item is not None and item is not Ellipsis)
    if consuming > rank:
        raise CaptureError(f"{consuming} indices for {rank} dimensions", remedy="Index with one position a dimension.")
    at = next((position for position, item in enumerate(items) if item is Ellipsis), None)
    if at is None:
        return items
    return (*items[:at], *(slice(None) for _ in range(rank - consuming)), *items[at + 1 :])


def _checked(position: Expr, size: int) -> Expr:
    if kind_of(position) != "int":
        raise CaptureError(
            f"a captured tensor is indexed with a {kind_of(position)}",
            remedy="Index with integers (.int()); to select by a condition, use torch.where.",
        )
    if isinstance(position, Const):
        if not -size <= position.value < size:
            raise CaptureError(f"index {position.value} is out of range for a dimension of length {size}", remedy="Correct the index.")
        return Const(int(position.value) % size, "int")
    return position


def unsqueeze(value: PartialIndex, dim: int) -> PartialIndex:
    """A new dimension of length 1."""
    at = dim + len(value.dims) + 1 if dim < 0 else dim
    return PartialIndex(value.expr, (*value.dims[:at], ("", 1), *value.dims[at:]))


def squeeze(value: PartialIndex, dim: int | None) -> PartialIndex:
    """Without one dimension (or every dimension) of length 1."""
    chosen = range(len(value.dims)) if dim is None else (dim % max(len(value.dims), 1),)
    gone = {at for at in chosen if at < len(value.dims) and value.dims[at][1] == 1}
    mapping: dict[str, Expr] = {value.dims[at][0]: Const(0, "int") for at in gone if value.dims[at][0]}
    return PartialIndex(substitute(value.expr, mapping), tuple(dim for at, dim in enumerate(value.dims) if at not in gone))


def length(value: PartialIndex) -> int:
    """The length of the first dimension."""
    if not value.dims:
        raise TracedIteration(
            "iterating over, unpacking or taking the length of a traced value",
            remedy="A traced value is one element; loop over Python numbers.",
        )
    return value.dims[0][1]


def unroll(value: PartialIndex, dim: int, name: str) -> list[PartialIndex]:
    """The elements along one dimension.

    Raises:
        ReductionInMod: there are too many of them, or none.
    """
    at = dim % len(value.dims)
    axis, size = value.dims[at]
    if not 0 < size <= LONGEST_UNROLLED:
        raise ReductionInMod(
            f"`{name}` over {size} captured elements; only 1 to {LONGEST_UNROLLED} are unrolled",
            remedy="Reduce outside and capture the result, or write torch.dot of two rows.",
        )
    rest = (*value.dims[:at], *value.dims[at + 1 :])
    return [PartialIndex(substitute(value.expr, {axis: Const(position, "int")}), rest) for position in range(size)]


def contract(value: PartialIndex, trace: Trace) -> Expr:
    """The sum over the only dimension, as a step that contracts a feature axis."""
    ((placeholder, size),) = value.dims
    feature = trace.feature(size)
    body = substitute(value.expr, {placeholder: Index(feature)})
    if not any(Index(feature) in read.at for read in reads(body)):
        raise UnsupportedOperation("a contraction over part of a captured row", remedy="Capture the part as a tensor of its own.")
    axes = tuple(axis for axis in trace.order(free_axes(body)) if axis != feature)
    place = user_place()
    loc = naming(locate(place), assigned(place) or "dot(...)")
    return trace.add(Einsum(trace.fresh("dot"), axes, body, "sum", (feature,), None, loc))

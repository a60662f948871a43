"""GQA packing: the query heads of a group are packed into the row axis, so that a KV tile is loaded once for all of them.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]      s[b,g,m,n] = sum[d] q[b,g,m,d] * k[b,g,n,d]
    x[b,g,r,m,n] = ... slopes[g * extent(r) + r]         x[b,g,m,n] = ... slopes[g * heads + m % heads]
                   if m >= n                                          if m // heads >= n

Row m is position m // heads of head m % heads. Positions do not decrease along rows, so masks are bounded as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attngen.analysis.axis_roles import Roles, roles
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input, arguments_first
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import children, free_axes, reads
from attngen.transform.streaming.gauges import at_own_axes


@dataclass(frozen=True, slots=True)
class HeadPacking:
    """How pairs of a query's position and a head of its group become rows.

    Attributes:
        rows: the axis of queries; row i is position i // number, head i % number, so that positions never decrease along rows.
        heads: the axis of the heads of a group, which is no axis afterwards.
        number: the input that holds the number of heads of a group.
    """

    rows: str
    heads: str
    number: str


def pack(cascade: Cascade) -> tuple[Cascade, HeadPacking] | None:
    """The cascade with pairs of position and head as rows; None where no heads share what is streamed.

    Query arguments have the row axis in place of positions and heads. Arguments along the keys too, such as biases, keep their axes and
    become captures read at computed positions.

    Args:
        cascade: CanonicalForm.
    """
    found = roles(cascade)
    heads = next((axis for axis in reversed(found.grid) if _is_shared(cascade, axis, found)), None)
    if heads is None:
        return None
    packing = HeadPacking(found.resident, heads, Names(cascade).fresh("heads"))
    move = _Pack(cascade, packing, found.streamed)
    inputs = arguments_first((*map(move.input, cascade.inputs), Input(packing.number, None, 0, "int", number=True)))
    return Cascade(inputs, tuple(map(move.step, cascade.steps)), cascade.outputs), packing


def packed_axes(axes: tuple[str, ...], packing: HeadPacking) -> tuple[str, ...]:
    """The axes of a value with rows in place of positions, of heads, or of both."""
    if packing.rows in axes:
        return tuple(axis for axis in axes if axis != packing.heads)
    return tuple(packing.rows if axis == packing.heads else axis for axis in axes)


def _is_shared(cascade: Cascade, heads: str, found: Roles) -> bool:
    """Whether queries have these heads, nothing reduces over them or gathers along them, and keys and values are shared by all of them."""
    arguments = [set(item.axes or ()) for item in cascade.inputs]
    spaces = [axes for step in cascade.steps for axes in _spaces(step)]
    moved, reduced = {heads, found.resident}, {axis for step in cascade.steps for axis in step.over}
    alone = any({heads, found.streamed} <= axes and found.resident not in axes for axes in (*arguments, *spaces))
    gathered = any(moved & set(item.axes or ()) and not _is_read_in_place(cascade, item) for item in cascade.inputs)
    return not alone and not gathered and not reduced & moved and any(moved <= axes for axes in arguments)


def _is_read_in_place(cascade: Cascade, item: Input) -> bool:
    """Whether an argument is read at its own axes only."""
    found = (read for step in cascade.steps for part in (step.body, step.where) for read in reads(part) if read.tensor == item.name)
    return all(at_own_axes(read, item.axes or ()) for read in found)


def _spaces(step: Einsum) -> Iterator[set[str]]:
    """The axes of a step and of every tensor that it reads."""
    yield {*step.axes, *step.over}
    for part in (step.body, step.where):
        yield from (set(free_axes(read)) for read in reads(part))


class _Pack:
    """Expressions and axes with pairs of position and head as rows."""

    def __init__(self, cascade: Cascade, packing: HeadPacking, streamed: str) -> None:
        self.packing = packing
        self.number = build.read(packing.number, (), "int")
        moved = {packing.rows, packing.heads}
        arguments = {item.name: set(item.axes) for item in cascade.inputs if item.axes is not None and moved & set(item.axes)}
        self.by_pairs = {name for name, axes in arguments.items() if streamed in axes}
        self.named = arguments.keys() - self.by_pairs | {step.name for step in cascade.steps}
        row = Index(packing.rows)
        self.moved: dict[Expr, Expr] = {
            row: build.apply("floordiv", row, self.number),
            Index(packing.heads): build.apply("mod", row, self.number),
            Extent(packing.rows): build.apply("floordiv", Extent(packing.rows), self.number),
            Extent(packing.heads): self.number,
        }

    def input(self, item: Input) -> Input:
        if item.name in self.by_pairs:
            return replace(item, axes=None)
        axes = packed_axes(item.axes or (), self.packing)
        return item if item.axes is None else replace(item, axes=axes, rank=len(axes))

    def step(self, step: Einsum) -> Einsum:
        where = None if step.where is None else self.expr(step.where)
        return replace(step, axes=packed_axes(step.axes, self.packing), body=self.expr(step.body), where=where)

    def expr(self, expr: Expr) -> Expr:
        match expr:
            case Read(tensor=name, at=at, kind=kind) if name in self.named:
                return build.read(name, packed_axes(tuple(place.axis for place in at if isinstance(place, Index)), self.packing), kind)
            case Read(tensor=name, kind=kind):
                return Read(name, tuple(map(self.expr, children(expr))), kind)
            case Apply(op=op):
                return Apply(op, tuple(map(self.expr, children(expr))))
            case _:
                return self.moved.get(expr, expr)

"""Half-open spans of the streamed axis, and what `and` and `or` make of them.

A predicate has pieces of two spans each: the `may` of all pieces hold every position that some row of the tile may attend to, the `must`
only positions that every row may attend to. `tight` says that no `may` was widened on the way: a hull over a gap or a part that nothing
is known about loses tiles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from attngen.analysis.affine import FIRST, LAST, at_least, largest, smallest
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Extent, Read
from attngen.ir.traverse import free_axes, rewrite, walk

ZERO = build.const(0)


@dataclass(frozen=True, slots=True)
class Interval:
    """lo <= position < hi, not yet clipped to the axis."""

    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class MayMust:
    """A run of positions where some row may attend, and within it, unless it is empty, one where every row may."""

    may: Interval
    must: Interval


@dataclass(frozen=True, slots=True)
class Intervals:
    """Pieces in no order, which may overlap."""

    pieces: tuple[MayMust, ...]
    tight: bool = True


@dataclass(frozen=True, slots=True)
class TileValue:
    """What a bound reads of a captured tensor: the least or greatest of its values at the rows of a tile."""

    which: Literal["least", "most"]
    read: Read


@dataclass(frozen=True, slots=True)
class Axes:
    """The axis that passes and the one whose tile stays; `over` collects what bounds read of captured tensors, by name."""

    stream: str
    resident: str
    over: dict[str, TileValue] = field(default_factory=dict[str, "TileValue"], compare=False)

    def over_tile(self, which: Literal["least", "most"], read: Read) -> Read:
        """The least or greatest of a captured integer over the rows of the tile, as one number."""
        for name, value in self.over.items():
            if value == TileValue(which, read):
                return Read(name, (), "int")
        name = f"{which}_{read.tensor}"
        while name in self.over:
            name += "_"
        self.over[name] = TileValue(which, read)
        return Read(name, (), "int")

    @property
    def everything(self) -> Interval:
        return Interval(ZERO, Extent(self.stream))

    @property
    def nothing(self) -> Interval:
        return Interval(ZERO, ZERO)


def one_number(expr: Expr, axes: Axes) -> bool:
    """Whether an expression has one value for the whole tile, and for every streamed position."""
    varying = (axes.stream, axes.resident)
    return not any(axis in varying for axis in free_axes(expr))


def opaque(axes: Axes) -> Intervals:
    """Nothing is known: visited, and masked."""
    return Intervals((MayMust(axes.everything, axes.nothing),), tight=False)


def gate(may: Expr, must: Expr, axes: Axes) -> Intervals:
    """Everything or nothing, by conditions that hold for the tile as a whole."""
    return Intervals((MayMust(_gated(may, axes), _gated(must, axes)),))


def both(a: Intervals, b: Intervals, axes: Axes) -> Intervals:
    """Where two predicates hold."""
    pieces = [MayMust(_meet(x.may, y.may, axes), _meet(x.must, y.must, axes)) for x in a.pieces for y in b.pieces]
    return _bounded(pieces, a.tight and b.tight, axes)


def either(a: Intervals, b: Intervals, axes: Axes) -> Intervals:
    """Where one of two predicates holds."""
    pieces: list[MayMust] = []
    for piece in (*a.pieces, *b.pieces):
        for other in list(pieces):
            if _touch(piece.may, other.may, axes):
                pieces.remove(other)
                piece = _merged(other, piece, axes)
        pieces.append(piece)
    return _bounded(pieces, a.tight and b.tight, axes)


def paired(weak: Intervals, strong: Intervals, axes: Axes) -> Intervals:
    """`may` of one predicate and `must` of another that implies it."""
    if len(weak.pieces) != len(strong.pieces):
        weak, strong = whole(weak, axes), whole(strong, axes)
    pieces = tuple(MayMust(x.may, y.must) for x, y in zip(weak.pieces, strong.pieces, strict=True))
    return Intervals(pieces, weak.tight and strong.tight)


def whole(intervals: Intervals, axes: Axes) -> Intervals:
    """One piece: the hull of `may`, and what is known to be one span of `must`."""
    merged = functools.reduce(lambda x, y: _merged(x, y, axes), intervals.pieces)
    return Intervals((merged,), intervals.tight and len(intervals.pieces) == 1)


def _merged(a: MayMust, b: MayMust, axes: Axes) -> MayMust:
    return MayMust(_hull(a.may, b.may, axes), _join(a.must, b.must, axes))


def _touch(a: Interval, b: Interval, axes: Axes) -> bool:
    """Whether the hull of two spans has no gap."""
    return a.lo == b.lo or a.hi == b.hi or _simple_union(a, b, axes) is not None


def _bounded(pieces: list[MayMust], tight: bool, axes: Axes) -> Intervals:
    """Pieces, one in place of too many, or nothing known where bounds have grown beyond what a kernel should compute."""
    kept = [piece for piece in pieces if not _empty(piece.may, axes)] or pieces[:1]
    intervals = Intervals(tuple(dict.fromkeys(kept)), tight)
    if len(intervals.pieces) > MOST_PIECES:
        intervals = whole(intervals, axes)
    bounds = (bound for piece in intervals.pieces for span in (piece.may, piece.must) for bound in (span.lo, span.hi))
    return opaque(axes) if any(len(set(islice(walk(bound), _MOST_NODES))) > _LONGEST for bound in bounds) else intervals


def _empty(span: Interval, axes: Axes) -> bool:
    """Whether no row has a position here: known of a tile of one row, which every tile is made of."""

    def of_one_row(node: Expr) -> Expr | None:
        return FIRST if node == LAST else None

    return at_least(rewrite(span.lo, of_one_row), rewrite(span.hi, of_one_row), axes.resident)


MOST_PIECES = 3
_LONGEST = 80
"""Distinct parts of a bound: what occurs several times is computed once."""
_MOST_NODES = 2000


def _gated(condition: Expr, axes: Axes) -> Interval:
    return Interval(ZERO, build.apply("where", condition, Extent(axes.stream), ZERO))


def _gate_of(span: Interval, axes: Axes) -> Expr | None:
    """The condition of a span that is everything or nothing."""
    match span.hi:
        case Apply(op="where", args=(condition, whole, none)) if (span.lo, whole, none) == (ZERO, Extent(axes.stream), ZERO):
            return condition
        case _:
            return None


def _meet(a: Interval, b: Interval, axes: Axes) -> Interval:
    return Interval(largest(a.lo, b.lo, axes.resident), smallest(a.hi, b.hi, axes.resident))


def _hull(a: Interval, b: Interval, axes: Axes) -> Interval:
    simple = _simple_union(a, b, axes)
    if simple is not None:
        return simple
    return Interval(smallest(a.lo, b.lo, axes.resident), largest(a.hi, b.hi, axes.resident))


def _join(a: Interval, b: Interval, axes: Axes) -> Interval:
    """The hull of two spans without a gap, else one of them."""
    return _hull(a, b, axes) if _touch(a, b, axes) else a


def _simple_union(a: Interval, b: Interval, axes: Axes) -> Interval | None:
    """The union where one of the spans is nothing, everything, or either of them by a condition."""
    if axes.everything in (a, b):
        return axes.everything
    if axes.nothing in (a, b):
        return b if a == axes.nothing else a
    for one, other in ((a, b), (b, a)):
        condition, second = _gate_of(one, axes), _gate_of(other, axes)
        if condition is not None and second is not None:
            return _gated(build.apply("or", condition, second), axes)
        if condition is not None:
            whole = axes.everything
            return Interval(build.apply("where", condition, whole.lo, other.lo), build.apply("where", condition, whole.hi, other.hi))
    return None

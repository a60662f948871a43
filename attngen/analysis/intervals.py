"""Half-open intervals of the streamed axis, under `and` and `or`.

A predicate is a union of pieces, each with two intervals: the `may` intervals cover every position that some row of the tile attends to,
the `must` intervals only positions that every row attends to. `tight` means that no `may` was widened, by a hull over a gap or an opaque
part, so that no EMPTY tile is visited.
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
    """lo <= position < hi, not clipped to the axis."""

    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class MayMust:
    """An interval where some row may attend and, within it unless empty, one where every row does."""

    may: Interval
    must: Interval


@dataclass(frozen=True, slots=True)
class Intervals:
    """The union of pieces, unordered and possibly overlapping."""

    pieces: tuple[MayMust, ...]
    tight: bool = True


@dataclass(frozen=True, slots=True)
class TileValue:
    """A bound's read of a captured tensor: its minimum or maximum over the rows of a tile."""

    which: Literal["least", "most"]
    read: Read


@dataclass(frozen=True, slots=True)
class Axes:
    """The loop axis and the parallel axis; `over` collects the tile values that bounds read, by name."""

    stream: str
    resident: str
    over: dict[str, TileValue] = field(default_factory=dict[str, "TileValue"], compare=False)

    def over_tile(self, which: Literal["least", "most"], read: Read) -> Read:
        """The scalar minimum or maximum of a captured integer over the rows of the tile."""
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


def is_uniform(expr: Expr, axes: Axes) -> bool:
    """Whether an expression is one scalar for all rows of the tile and all streamed positions."""
    varying = (axes.stream, axes.resident)
    return not any(axis in varying for axis in free_axes(expr))


def opaque(axes: Axes) -> Intervals:
    """No information: every tile is visited and masked."""
    return Intervals((MayMust(axes.everything, axes.nothing),), tight=False)


def gate(may: Expr, must: Expr, axes: Axes) -> Intervals:
    """The whole axis or nothing, under uniform conditions."""
    return Intervals((MayMust(_gated(may, axes), _gated(must, axes)),))


def both(a: Intervals, b: Intervals, axes: Axes) -> Intervals:
    """The conjunction of two predicates."""
    pieces = [MayMust(_meet(x.may, y.may, axes), _meet(x.must, y.must, axes)) for x in a.pieces for y in b.pieces]
    return _bounded(pieces, a.tight and b.tight, axes)


def either(a: Intervals, b: Intervals, axes: Axes) -> Intervals:
    """The disjunction of two predicates; pieces without a gap between them are merged."""
    pieces: list[MayMust] = []
    for piece in (*a.pieces, *b.pieces):
        for other in list(pieces):
            if _touch(piece.may, other.may, axes):
                pieces.remove(other)
                piece = _merged(other, piece, axes)
        pieces.append(piece)
    return _bounded(pieces, a.tight and b.tight, axes)


def paired(weak: Intervals, strong: Intervals, axes: Axes) -> Intervals:
    """The `may` intervals of one predicate with the `must` intervals of another that implies it."""
    if len(weak.pieces) != len(strong.pieces):
        weak, strong = whole(weak, axes), whole(strong, axes)
    pieces = tuple(MayMust(x.may, y.must) for x, y in zip(weak.pieces, strong.pieces, strict=True))
    return Intervals(pieces, weak.tight and strong.tight)


def whole(intervals: Intervals, axes: Axes) -> Intervals:
    """One piece: the hull of `may`, and one interval within `must`."""
    merged = functools.reduce(lambda x, y: _merged(x, y, axes), intervals.pieces)
    return Intervals((merged,), intervals.tight and len(intervals.pieces) == 1)


def _merged(a: MayMust, b: MayMust, axes: Axes) -> MayMust:
    return MayMust(_hull(a.may, b.may, axes), _join(a.must, b.must, axes))


def _touch(a: Interval, b: Interval, axes: Axes) -> bool:
    """Whether the hull of two intervals has no gap."""
    return a.lo == b.lo or a.hi == b.hi or _simple_union(a, b, axes) is not None


def _bounded(pieces: list[MayMust], tight: bool, axes: Axes) -> Intervals:
    """The nonempty pieces; their hull if there are too many, `opaque` if a bound is too large for a kernel to compute."""
    nonempty = [piece for piece in pieces if not _empty(piece.may, axes)] or pieces[:1]
    intervals = Intervals(tuple(dict.fromkeys(nonempty)), tight)
    if len(intervals.pieces) > MOST_PIECES:
        intervals = whole(intervals, axes)
    bounds = (bound for piece in intervals.pieces for part in (piece.may, piece.must) for bound in (part.lo, part.hi))
    return opaque(axes) if any(len(set(islice(walk(bound), _MOST_NODES))) > _LONGEST for bound in bounds) else intervals


def _empty(interval: Interval, axes: Axes) -> bool:
    """Whether the interval is known to be empty for a tile of one row, and so for every tile."""

    def of_one_row(node: Expr) -> Expr | None:
        return FIRST if node == LAST else None

    return at_least(rewrite(interval.lo, of_one_row), rewrite(interval.hi, of_one_row), axes.resident)


MOST_PIECES = 3
_LONGEST = 80
"""Distinct nodes of a bound: common subexpressions are computed once."""
_MOST_NODES = 2000


def _gated(condition: Expr, axes: Axes) -> Interval:
    return Interval(ZERO, build.apply("where", condition, Extent(axes.stream), ZERO))


def _gate_of(interval: Interval, axes: Axes) -> Expr | None:
    """The condition of an interval made by `_gated`, else None."""
    match interval.hi:
        case Apply(op="where", args=(condition, whole, none)) if (interval.lo, whole, none) == (ZERO, Extent(axes.stream), ZERO):
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
    """The hull of two intervals if it has no gap, else one of them."""
    return _hull(a, b, axes) if _touch(a, b, axes) else a


def _simple_union(a: Interval, b: Interval, axes: Axes) -> Interval | None:
    """The union of two intervals if one of them is the whole axis, nothing, or gated; else None."""
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

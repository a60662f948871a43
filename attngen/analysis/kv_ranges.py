"""Closed-form kv ranges of a resident tile, from the mask.

Takes a predicate, gives pieces of two half-open ranges of the streamed axis, as expressions of the tile's first and last resident position:

    may:  outside of it no row of the tile attends        (EMPTY: not visited)
    must: inside of it every row of the tile attends      (FULL: no masking code); the rest of `may` is PARTIAL

`may` over-approximates and `must` under-approximates. Most masks have one piece; a sliding window with sink tokens has two. A predicate is
brought into negation normal form, `solve` solves its comparisons, and `intervals` combines the results. An equality of a streamed and a
resident value, as in `doc[m] == doc[n] and m - start[doc[m]] >= n - start[doc[n]]`, is substituted in the other conjuncts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from attngen.analysis.affine import Linear, at_least, constant, largest, linear, smallest
from attngen.analysis.intervals import (
    ZERO,
    Axes,
    Interval,
    Intervals,
    MayMust,
    TileValue,
    both,
    either,
    gate,
    is_uniform,
    opaque,
    paired,
    whole,
)
from attngen.analysis.solve import solve_comparison
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, names_read, rewrite

_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_WHOLE = {"lt": math.ceil, "le": math.floor, "gt": math.floor, "ge": math.ceil}
"""Rounding of a fractional bound to the equivalent integer bound."""


@dataclass(frozen=True, slots=True)
class KvRanges:
    """Half-open ranges of streamed positions, for one tile of resident rows [first, last].

    Each bound is an integer expression of the reads `first` and `last`, extents and uniform values, clipped to the axis; a range
    whose lower bound is not below its upper one is empty.

    Attributes:
        pieces: sorted by the lower bound of `may`; they may overlap.
        over: the tile values that bounds read, by name.
        tight: whether no `may` was widened over gaps or opaque parts.
    """

    stream: str
    pieces: tuple[MayMust, ...]
    over: tuple[tuple[str, TileValue], ...] = ()
    tight: bool = True

    @property
    def bounds(self) -> tuple[Expr, ...]:
        """All bounds: for each piece those of `may`, then those of `must`."""
        return tuple(bound for piece in self.pieces for part in (piece.may, piece.must) for bound in (part.lo, part.hi))

    @property
    def masked(self) -> bool:
        """Whether no position is known to be FULL."""
        return all(build.is_const(piece.must.hi, 0) for piece in self.pieces)

    @property
    def unmasked(self) -> bool:
        """Whether every visited position is FULL."""
        return all(piece.may == piece.must for piece in self.pieces)


def kv_ranges(predicate: Expr | None, stream: str, resident: str) -> KvRanges:
    """The ranges of a predicate for a resident tile.

    Args:
        predicate: the mask of (streamed, resident) pairs; None if there is none.
        stream: the loop axis.
        resident: the parallel axis, whose tile is [first, last].

    Returns:
        Bounds valid for every tile, extent and value of the captured numbers.
    """
    return loop_ranges(predicate, predicate, stream, resident)


def loop_ranges(may: Expr | None, must: Expr | None, stream: str, resident: str) -> KvRanges:
    """The loop ranges of a kernel: the `may` ranges of its may-mask, the `must` ranges of its must-mask, which implies the former."""
    axes = Axes(stream, resident)
    visited, full = (_intervals(build.TRUE if predicate is None else predicate, axes) for predicate in (may, must))
    intervals = paired(visited, full, axes)
    pieces = _ordered([_clipped(piece, axes) for piece in intervals.pieces], axes)
    if pieces is None:
        intervals = whole(intervals, axes)
        pieces = [_clipped(piece, axes) for piece in intervals.pieces]
    used = {name for piece in pieces for part in (piece.may, piece.must) for bound in (part.lo, part.hi) for name in names_read(bound)}
    return KvRanges(stream, tuple(pieces), tuple(item for item in axes.over.items() if item[0] in used), intervals.tight)


def solved(predicate: Expr, stream: str) -> tuple[Interval, tuple[Expr, ...]]:
    """A mask solved for the streamed position of a single row: the interval of the solvable conjuncts, and the other conjuncts.

    Args:
        predicate: the mask.
        stream: the axis to solve for.

    Returns:
        An interval, not clipped to the axis, whose bounds may read anything but streamed positions.
    """
    row = Axes(stream, "")  # for one row, its position is a scalar
    interval = row.everything
    left: list[Expr] = []
    for part in related(build.conjuncts(predicate), row):
        intervals = _intervals(part, row)
        if len(intervals.pieces) == 1 and intervals.pieces[0].may == intervals.pieces[0].must:
            may = intervals.pieces[0].may
            lo = may.lo if interval.lo == ZERO else largest(interval.lo, may.lo, "")
            hi = may.hi if interval.hi == Extent(stream) else smallest(interval.hi, may.hi, "")
            interval = Interval(lo, hi)
        else:
            left.append(part)
    return interval, tuple(left)


def _clipped(piece: MayMust, axes: Axes) -> MayMust:
    """A piece clipped to the axis."""

    def clipped(interval: Interval) -> Interval:
        return Interval(largest(ZERO, interval.lo, axes.resident), smallest(interval.hi, Extent(axes.stream), axes.resident))

    return MayMust(clipped(piece.may), clipped(piece.must))


def _ordered(pieces: list[MayMust], axes: Axes) -> list[MayMust] | None:
    """Pieces sorted by the lower bound of `may`; None if the order is not known statically."""
    result: list[MayMust] = []
    for piece in pieces:
        after = [at_least(piece.may.lo, other.may.lo, axes.resident) for other in result]
        before = [at_least(other.may.lo, piece.may.lo, axes.resident) for other in result]
        place = sum(after)
        if not all(after[:place]) or not all(before[place:]):
            return None
        result.insert(place, piece)
    return result


def describe(ranges: KvRanges) -> str:
    """One line for `explain`."""
    visited = f"visits {ranges.stream} in {_spelled([piece.may for piece in ranges.pieces])}"
    if ranges.unmasked:
        return f"{visited}, nothing masked"
    if ranges.masked:
        return f"{visited}, all of it masked"
    full = [piece.must for piece in ranges.pieces if not build.is_const(piece.must.hi, 0)]
    return f"{visited}, unmasked in {_spelled(full)}"


def _spelled(intervals: list[Interval]) -> str:
    return " and ".join(f"[{print_expr(interval.lo)}, {print_expr(interval.hi)})" for interval in intervals)


def _intervals(predicate: Expr, axes: Axes) -> Intervals:
    if is_uniform(predicate, axes):
        return gate(predicate, predicate, axes)
    match predicate:
        case Apply(op="and"):
            first, *more = (_intervals(part, axes) for part in related(build.conjuncts(predicate), axes))
            return functools.reduce(lambda a, b: both(a, b, axes), more, first)
        case Apply(op="or", args=(a, b)):
            return either(_intervals(a, axes), _intervals(b, axes), axes)
        case Apply(op="not", args=(a,)):
            inner = _negation(a)
            return opaque(axes) if inner is None else _intervals(inner, axes)
        case Apply(op="to_bool", args=(a,)) if kind_of(a) != "float":
            return _intervals(a if kind_of(a) == "bool" else build.apply("ne", a, ZERO), axes)
        case Apply(op="where", args=(p, a, b)):
            return _intervals(_cases(p, a, b), axes)
        case Apply(op="eq" | "ne" as op, args=(a, b)) if kind_of(a) == kind_of(b) == "bool":
            other = build.apply("not", b)
            return _intervals(_cases(a, b, other) if op == "eq" else _cases(a, other, b), axes)
        case Apply(op=op, args=(a, b)) if op in _NEGATED and kind_of(a) != "float" and kind_of(b) != "float":
            return _compared(op, linear(a).plus(linear(b), -1), axes)
        case Apply(op=op, args=(a, Const(value=bound))) if op in _WHOLE and kind_of(a) != "float" and math.isfinite(bound):
            return _compared(op, linear(a).plus(constant(_WHOLE[op](bound)), -1), axes)
        case Apply(op=op, args=(Const() as bound, a)) if op in _WHOLE and kind_of(a) != "float":
            return _intervals(Apply(_MIRRORED[op], (a, bound)), axes)
        case _:
            return opaque(axes)


def _compared(op: str, difference: Linear, axes: Axes) -> Intervals:
    """A comparison of `difference` with 0; a `where` of streamed values is split into its two cases."""
    for term, factor in difference.terms:
        if isinstance(term, Apply) and term.op == "where" and axes.stream in free_axes(term):
            rest = difference.without(term)
            a, b = (Apply(op, (rest.plus(linear(value), factor).expr(), ZERO)) for value in term.args[1:])
            return _intervals(_cases(term.args[0], a, b), axes)
    return solve_comparison(op, difference, axes)


def related(parts: tuple[Expr, ...], axes: Axes) -> list[Expr]:
    """The conjuncts, each with the equalities of the others substituted: a streamed value by the resident one it equals."""
    found = list(parts)
    for i in range(len(found)):
        streamed, resident = _equated(found[i], axes)
        if streamed is not None and resident is not None:
            for j, other in enumerate(found):
                if j != i:
                    found[j] = rewrite(other, lambda node, old=streamed, new=resident: new if node == old else None)
    return found


def _equated(part: Expr, axes: Axes) -> tuple[Expr | None, Expr | None]:
    """A computed or captured streamed value, and the resident value that it equals."""
    if isinstance(part, Apply) and part.op == "eq":
        for one, other in (part.args, part.args[::-1]):
            streamed = axes.stream in free_axes(one) and axes.resident not in free_axes(one)
            if streamed and axes.stream not in free_axes(other) and not isinstance(one, Index):
                return one, other
    return None, None


def _negation(predicate: Expr) -> Expr | None:
    """not `predicate`, with the `not` pushed inwards by one level; None for an atom."""
    match predicate:
        case Apply(op="and", args=(a, b)):
            return build.apply("or", build.apply("not", a), build.apply("not", b))
        case Apply(op="or", args=(a, b)):
            return build.apply("and", build.apply("not", a), build.apply("not", b))
        case Apply(op="not", args=(a,)):
            return a
        case Apply(op="to_bool", args=(a,)) if kind_of(a) != "float":
            return build.apply("not", a) if kind_of(a) == "bool" else build.apply("eq", a, ZERO)
        case Apply(op="where", args=(p, a, b)):
            return _cases(p, build.apply("not", a), build.apply("not", b))
        case Apply(op=op, args=args) if op in _NEGATED:
            return build.apply(_NEGATED[op], *args)
        case _:
            return None


def _cases(p: Expr, a: Expr, b: Expr) -> Expr:
    """where(p, a, b) of truth values, as a disjunction."""
    return build.apply("or", build.apply("and", p, a), build.apply("and", build.apply("not", p), b))

"""Half-open spans of the streamed axis, and what `and` and `or` make of them.

A predicate has two spans: `some` holds every position that some row of the tile may attend to, `all` only positions that every row may
attend to. `tight` says that `some` was not widened on the way: a hull over a gap or a part that nothing is known about loses tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

from attngen.analysis.bounds import compare_least, largest, smallest
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Extent, Read
from attngen.ir.traverse import free_axes, walk

ZERO = build.const(0)


@dataclass(frozen=True, slots=True)
class Span:
    """lo <= position < hi, not yet clipped to the axis."""

    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class Spans:
    """Where some row may attend, and where every row may."""

    some: Span
    all: Span
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
    def everything(self) -> Span:
        return Span(ZERO, Extent(self.stream))

    @property
    def nothing(self) -> Span:
        return Span(ZERO, ZERO)


def one_number(expr: Expr, axes: Axes) -> bool:
    """Whether an expression has one value for the whole tile, and for every streamed position."""
    varying = (axes.stream, axes.resident)
    return not any(axis in varying for axis in free_axes(expr))


def opaque(axes: Axes) -> Spans:
    """Nothing is known: visited, and masked."""
    return Spans(axes.everything, axes.nothing, tight=False)


def gate(some: Expr, every: Expr, axes: Axes) -> Spans:
    """Everything or nothing, by conditions that hold for the tile as a whole."""
    return Spans(_gated(some, axes), _gated(every, axes))


def both(a: Spans, b: Spans, axes: Axes) -> Spans:
    """Where two predicates hold."""
    return _short(Spans(_meet(a.some, b.some, axes), _meet(a.all, b.all, axes), a.tight and b.tight), axes)


def either(a: Spans, b: Spans, axes: Axes) -> Spans:
    """Where one of two predicates holds."""
    touch = a.some.lo == b.some.lo or a.some.hi == b.some.hi or _simple_union(a.some, b.some, axes) is not None
    return _short(Spans(_hull(a.some, b.some, axes), _join(a.all, b.all, axes), a.tight and b.tight and touch), axes)


def _short(spans: Spans, axes: Axes) -> Spans:
    """The spans, or nothing known where their bounds have grown beyond what a kernel should compute and a person can read."""
    bounds = (spans.some.lo, spans.some.hi, spans.all.lo, spans.all.hi)
    return opaque(axes) if any(sum(1 for _ in islice(walk(bound), _LONGEST + 1)) > _LONGEST for bound in bounds) else spans


_LONGEST = 80


def _gated(condition: Expr, axes: Axes) -> Span:
    return Span(ZERO, build.apply("where", condition, Extent(axes.stream), ZERO))


def _gate_of(span: Span, axes: Axes) -> Expr | None:
    """The condition of a span that is everything or nothing."""
    match span.hi:
        case Apply(op="where", args=(condition, whole, none)) if (span.lo, whole, none) == (ZERO, Extent(axes.stream), ZERO):
            return condition
        case _:
            return None


def _meet(a: Span, b: Span, axes: Axes) -> Span:
    return Span(largest(a.lo, b.lo, axes.resident), smallest(a.hi, b.hi, axes.resident))


def _hull(a: Span, b: Span, axes: Axes) -> Span:
    simple = _simple_union(a, b, axes)
    if simple is not None:
        return simple
    return Span(smallest(a.lo, b.lo, axes.resident), largest(a.hi, b.hi, axes.resident))


def _join(a: Span, b: Span, axes: Axes) -> Span:
    """The hull of two spans if they touch, else the longer one; right for empty spans too."""
    hull = _hull(a, b, axes)
    if a.lo == b.lo or a.hi == b.hi or _simple_union(a, b, axes) is not None:
        return hull
    least = partial(compare_least, resident=axes.resident)
    touch = build.apply("and", least(b.hi, a.lo), least(a.hi, b.lo))
    longer = least(build.sub(a.hi, a.lo), build.sub(b.hi, b.lo))
    lo = build.apply("where", touch, hull.lo, build.apply("where", longer, a.lo, b.lo))
    hi = build.apply("where", touch, hull.hi, build.apply("where", longer, a.hi, b.hi))
    return Span(lo, hi)


def _simple_union(a: Span, b: Span, axes: Axes) -> Span | None:
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
            return Span(build.apply("where", condition, whole.lo, other.lo), build.apply("where", condition, whole.hi, other.hi))
    return None

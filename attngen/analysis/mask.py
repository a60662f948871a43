"""Which streamed positions a tile of resident rows needs: closed-form ranges.

Takes a predicate, gives two half-open ranges of the streamed axis as expressions of the tile's first and last resident position:

    some: outside of it no row of the tile may attend        (EMPTY: never visited)
    all:  inside of it every row of the tile may attend      (FULL: no masking code); what is left of `some` is PARTIAL

`some` may be too large and `all` too small, never the other way round. A predicate is brought into negation normal form, every
comparison of integers into `a * stream + b * resident + c >= 0` with whole numbers a and b and a c that is one number for the tile;
max, min, abs and where inside of a comparison are split into cases. What has no such form is opaque: visited, and masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from attngen.analysis.bounds import FIRST, LAST, Linear, compare_least, constant, largest, linear, single, smallest
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes

_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_WHOLE = {"lt": math.ceil, "le": math.floor, "gt": math.floor, "ge": math.ceil}
"""The whole number that may stand for a fractional bound."""
_ZERO = build.const(0)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Half-open ranges of streamed positions, for one tile of resident rows [first, last].

    Each bound is an integer expression of the reads `first` and `last`, extents, and whatever is one number for the tile. Lower
    bounds are never negative and upper bounds never beyond the axis; a range whose lower bound is not below its upper one is empty.
    A nonempty `all` lies within `some`.
    """

    stream: str
    some_lo: Expr
    some_hi: Expr
    all_lo: Expr
    all_hi: Expr

    @property
    def exact_head(self) -> bool:
        """No PARTIAL positions in front of the FULL ones: both ranges start at one expression."""
        return self.some_lo == self.all_lo

    @property
    def exact_tail(self) -> bool:
        """No PARTIAL positions behind the FULL ones."""
        return self.some_hi == self.all_hi

    @property
    def unmasked(self) -> bool:
        """Every visited position is FULL."""
        return self.exact_head and self.exact_tail


@dataclass(frozen=True, slots=True)
class _Span:
    """lo <= position < hi, not yet clipped to the axis."""

    lo: Expr
    hi: Expr


@dataclass(frozen=True, slots=True)
class _Spans:
    some: _Span
    all: _Span


@dataclass(frozen=True, slots=True)
class _Axes:
    stream: str
    resident: str

    @property
    def everything(self) -> _Span:
        return _Span(_ZERO, Extent(self.stream))

    @property
    def nothing(self) -> _Span:
        return _Span(_ZERO, _ZERO)


def stream_ranges(predicate: Expr | None, stream: str, resident: str) -> Ranges:
    """Where a tile of resident rows meets the streamed axis.

    Args:
        predicate: which (streamed, resident) pairs exist; None for all of them.
        stream: the axis that the kernel loops over.
        resident: the axis whose tile is known by `first` and `last`.

    Returns:
        Bounds that hold for every tile, every extent and every value of the captured numbers.
    """
    axes = _Axes(stream, resident)
    spans = _spans(build.TRUE if predicate is None else predicate, axes)
    end = Extent(stream)
    return Ranges(
        stream,
        largest(_ZERO, spans.some.lo, resident),
        smallest(spans.some.hi, end, resident),
        largest(_ZERO, spans.all.lo, resident),
        smallest(spans.all.hi, end, resident),
    )


def describe(ranges: Ranges) -> str:
    """One line for `explain`."""
    visited = f"visits {ranges.stream} in [{print_expr(ranges.some_lo)}, {print_expr(ranges.some_hi)})"
    if ranges.unmasked:
        return f"{visited}, nothing masked"
    if ranges.all_hi == _ZERO:
        return f"{visited}, all of it masked"
    return f"{visited}, unmasked in [{print_expr(ranges.all_lo)}, {print_expr(ranges.all_hi)})"


def _spans(predicate: Expr, axes: _Axes) -> _Spans:
    if _one_number(predicate, axes):
        return _gate(predicate, predicate, axes)
    match predicate:
        case Apply(op="and", args=(a, b)):
            return _both(_spans(a, axes), _spans(b, axes), axes)
        case Apply(op="or", args=(a, b)):
            return _either(_spans(a, axes), _spans(b, axes), axes)
        case Apply(op="not", args=(a,)):
            inner = _negation(a)
            return _opaque(axes) if inner is None else _spans(inner, axes)
        case Apply(op="to_bool", args=(a,)) if kind_of(a) != "float":
            return _spans(a if kind_of(a) == "bool" else build.apply("ne", a, _ZERO), axes)
        case Apply(op="where", args=(p, a, b)):
            return _spans(_cases(p, a, b), axes)
        case Apply(op="eq" | "ne" as op, args=(a, b)) if kind_of(a) == kind_of(b) == "bool":
            other = build.apply("not", b)
            return _spans(_cases(a, b, other) if op == "eq" else _cases(a, other, b), axes)
        case Apply(op=op, args=(a, b)) if op in _NEGATED and kind_of(a) != "float" and kind_of(b) != "float":
            return _comparison(op, linear(a).plus(linear(b), -1), axes)
        case Apply(op=op, args=(a, Const(value=bound))) if op in _WHOLE and kind_of(a) != "float" and math.isfinite(bound):
            return _comparison(op, linear(a).plus(constant(_WHOLE[op](bound)), -1), axes)
        case Apply(op=op, args=(Const() as bound, a)) if op in _WHOLE and kind_of(a) != "float":
            return _spans(Apply(_MIRRORED[op], (a, bound)), axes)
        case _:
            return _opaque(axes)


def _negation(predicate: Expr) -> Expr | None:
    """not `predicate`, with the `not` moved inwards; None where there is nothing to move it into."""
    match predicate:
        case Apply(op="and", args=(a, b)):
            return build.apply("or", build.apply("not", a), build.apply("not", b))
        case Apply(op="or", args=(a, b)):
            return build.apply("and", build.apply("not", a), build.apply("not", b))
        case Apply(op="not", args=(a,)):
            return a
        case Apply(op="to_bool", args=(a,)) if kind_of(a) != "float":
            return build.apply("not", a) if kind_of(a) == "bool" else build.apply("eq", a, _ZERO)
        case Apply(op="where", args=(p, a, b)):
            return _cases(p, build.apply("not", a), build.apply("not", b))
        case Apply(op=op, args=args) if op in _NEGATED:
            return build.apply(_NEGATED[op], *args)
        case _:
            return None


def _cases(p: Expr, a: Expr, b: Expr) -> Expr:
    """where(p, a, b) of truth values."""
    return build.apply("or", build.apply("and", p, a), build.apply("and", build.apply("not", p), b))


def _comparison(op: str, difference: Linear, axes: _Axes) -> _Spans:
    """difference `op` 0, for integers."""
    less = constant(0).plus(difference, -1)
    match op:
        case "ge":
            return _at_least_zero(difference, axes)
        case "gt":
            return _at_least_zero(difference.plus(constant(-1)), axes)
        case "le":
            return _at_least_zero(less, axes)
        case "lt":
            return _at_least_zero(less.plus(constant(-1)), axes)
        case "eq":
            return _both(_at_least_zero(difference, axes), _at_least_zero(less, axes), axes)
        case _:
            above, below = difference.plus(constant(-1)), less.plus(constant(-1))
            return _either(_at_least_zero(above, axes), _at_least_zero(below, axes), axes)


def _at_least_zero(form: Linear, axes: _Axes) -> _Spans:
    stream, resident = Index(axes.stream), Index(axes.resident)
    rest = form.without(stream, resident)
    for term, factor in rest.terms:
        if not _one_number(term, axes):
            return _split(form, term, factor, axes)
    a, b = form.coefficient(stream), form.coefficient(resident)
    first, last = single(FIRST, b).plus(rest), single(LAST, b).plus(rest)
    most, least = (last, first) if b >= 0 else (first, last)
    if a == 0:
        some = compare_least(most.expr(), _ZERO, axes.resident)
        return _gate(some, compare_least(least.expr(), _ZERO, axes.resident), axes)
    return _Spans(_solve(a, most, axes), _solve(a, least, axes))


def _solve(a: int, rest: Linear, axes: _Axes) -> _Span:
    """The positions n with a * n + rest >= 0, for a != 0."""
    if a == 1:
        return _Span(constant(0).plus(rest, -1).expr(), Extent(axes.stream))
    if a == -1:
        return _Span(_ZERO, rest.plus(constant(1)).expr())
    steps = build.apply("floordiv", rest.expr(), build.const(abs(a)))
    if a > 0:
        return _Span(build.neg(steps), Extent(axes.stream))
    return _Span(_ZERO, build.add(steps, build.const(1)))


def _split(form: Linear, term: Expr, factor: int, axes: _Axes) -> _Spans:
    """The comparison for each case of a max, min, abs or where in it."""
    without = form.without(term)

    def case(value: Expr) -> _Spans:
        return _at_least_zero(without.plus(linear(value), factor), axes)

    match term:
        case Apply(op="abs", args=(a,)):
            pieces = (case(a), case(build.neg(a)))
            return _either(*pieces, axes) if factor > 0 else _both(*pieces, axes)
        case Apply(op="max" | "min" as op, args=(a, b)):
            pieces = (case(a), case(b))
            return _either(*pieces, axes) if (op == "max") == (factor > 0) else _both(*pieces, axes)
        case Apply(op="where", args=(p, a, b)):
            chosen, other = _spans(p, axes), _spans(build.apply("not", p), axes)
            return _either(_both(chosen, case(a), axes), _both(other, case(b), axes), axes)
        case _:
            return _opaque(axes)


def _opaque(axes: _Axes) -> _Spans:
    return _Spans(axes.everything, axes.nothing)


def _gate(some: Expr, every: Expr, axes: _Axes) -> _Spans:
    """Everything or nothing, by conditions that hold for the tile as a whole."""
    return _Spans(_gated(some, axes), _gated(every, axes))


def _gated(condition: Expr, axes: _Axes) -> _Span:
    return _Span(_ZERO, build.apply("where", condition, Extent(axes.stream), _ZERO))


def _gate_of(span: _Span, axes: _Axes) -> Expr | None:
    """The condition of a span that is everything or nothing."""
    match span.hi:
        case Apply(op="where", args=(condition, whole, none)) if (span.lo, whole, none) == (_ZERO, Extent(axes.stream), _ZERO):
            return condition
        case _:
            return None


def _both(a: _Spans, b: _Spans, axes: _Axes) -> _Spans:
    return _Spans(_meet(a.some, b.some, axes), _meet(a.all, b.all, axes))


def _either(a: _Spans, b: _Spans, axes: _Axes) -> _Spans:
    return _Spans(_hull(a.some, b.some, axes), _join(a.all, b.all, axes))


def _meet(a: _Span, b: _Span, axes: _Axes) -> _Span:
    return _Span(largest(a.lo, b.lo, axes.resident), smallest(a.hi, b.hi, axes.resident))


def _hull(a: _Span, b: _Span, axes: _Axes) -> _Span:
    simple = _simple_union(a, b, axes)
    if simple is not None:
        return simple
    return _Span(smallest(a.lo, b.lo, axes.resident), largest(a.hi, b.hi, axes.resident))


def _join(a: _Span, b: _Span, axes: _Axes) -> _Span:
    """The hull of two spans if they touch, else the longer one; right for empty spans too."""
    hull = _hull(a, b, axes)
    if a.lo == b.lo or a.hi == b.hi or _simple_union(a, b, axes) is not None:
        return hull
    least = partial(compare_least, resident=axes.resident)
    touch = build.apply("and", least(b.hi, a.lo), least(a.hi, b.lo))
    longer = least(build.sub(a.hi, a.lo), build.sub(b.hi, b.lo))
    lo = build.apply("where", touch, hull.lo, build.apply("where", longer, a.lo, b.lo))
    hi = build.apply("where", touch, hull.hi, build.apply("where", longer, a.hi, b.hi))
    return _Span(lo, hi)


def _simple_union(a: _Span, b: _Span, axes: _Axes) -> _Span | None:
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
            return _Span(build.apply("where", condition, whole.lo, other.lo), build.apply("where", condition, whole.hi, other.hi))
    return None


def _one_number(expr: Expr, axes: _Axes) -> bool:
    """Whether an expression has one value for the whole tile, and for every streamed position."""
    varying = (axes.stream, axes.resident)
    return not any(axis in varying for axis in free_axes(expr))

"""Integer comparisons, solved for the streamed position.

    a * n + rest(tile) >= 0          n >= ceil(-rest / a), or n <= floor(rest / -a)
    (n + k) // c >= x(tile)          n + k >= c * x, for c > 0

A value that varies over the rows of the tile is bounded by its minimum and maximum: positions by `first` and `last`; sums, multiples,
quotients, remainders, max, min, abs and where by the bounds of their operands; captured tensors by a minimum and a maximum over the tile.
max, min and abs of streamed positions are split into cases. Anything else is opaque.
"""

from __future__ import annotations

from attngen.analysis.affine import FIRST, LAST, Linear, compare_least, constant, largest, linear, smallest
from attngen.analysis.intervals import ZERO, Axes, Interval, Intervals, MayMust, both, either, gate, is_uniform, opaque, paired
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes

_Bounds = tuple[Expr, Expr]
"""The minimum and the maximum over a tile."""


def solve_comparison(op: str, difference: Linear, axes: Axes) -> Intervals:
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
            return both(_at_least_zero(difference, axes), _at_least_zero(less, axes), axes)
        case _:
            above, below = difference.plus(constant(-1)), less.plus(constant(-1))
            return either(_at_least_zero(above, axes), _at_least_zero(below, axes), axes)


def _at_least_zero(form: Linear, axes: Axes) -> Intervals:
    stream = Index(axes.stream)
    for term, factor in form.terms:
        if term != stream and axes.stream in free_axes(term):
            return _without_term(form, term, factor, axes)
    a = form.coefficient(stream)
    bounds = _extremes_of_sum(form.without(stream), axes)
    if bounds is None:
        return opaque(axes)
    least, most = bounds
    if a == 0:
        return gate(compare_least(most, ZERO, axes.resident), compare_least(least, ZERO, axes.resident), axes)
    return Intervals((MayMust(_solve(a, linear(most), axes), _solve(a, linear(least), axes)),))


def _solve(a: int, rest: Linear, axes: Axes) -> Interval:
    """The positions n with a * n + rest >= 0, for a != 0."""
    if a == 1:
        return Interval(constant(0).plus(rest, -1).expr(), Extent(axes.stream))
    if a == -1:
        return Interval(ZERO, rest.plus(constant(1)).expr())
    steps = build.apply("floordiv", rest.expr(), build.const(abs(a)))
    if a > 0:
        return Interval(build.neg(steps), Extent(axes.stream))
    return Interval(ZERO, build.add(steps, build.const(1)))


def _without_term(form: Linear, term: Expr, factor: int, axes: Axes) -> Intervals:
    """form >= 0 without a streamed term: by the cases of a max, min or abs, or with a quotient multiplied out."""
    rest = form.without(term)

    def case(value: Expr) -> Intervals:
        return _at_least_zero(rest.plus(linear(value), factor), axes)

    match term:
        case Apply(op="abs", args=(a,)):
            cases = (case(a), case(build.neg(a)))
            return either(*cases, axes) if factor > 0 else both(*cases, axes)
        case Apply(op="max" | "min" as op, args=(a, b)):
            cases = (case(a), case(b))
            return either(*cases, axes) if (op == "max") == (factor > 0) else both(*cases, axes)
        case Apply(op="floordiv", args=(a, c)) if is_uniform(c, axes):
            return _quotient(a, c, rest, factor, axes)
        case _:
            return opaque(axes)


def _quotient(a: Expr, c: Expr, rest: Linear, factor: int, axes: Axes) -> Intervals:
    """factor * (a // c) + rest >= 0; opaque for a divisor below 1."""
    bounds = _extremes_of_sum(rest, axes)
    if bounds is None or (isinstance(c, Const) and c.value < 1):
        return opaque(axes)

    def solved(bound: Expr) -> Intervals:
        """a // c >= -bound, or a // c <= bound."""
        steps = linear(build.apply("floordiv", bound, build.const(abs(factor))) if abs(factor) > 1 else bound)
        if factor > 0:
            return _at_least_zero(linear(a).plus(linear(build.mul(c, steps.expr()))), axes)
        below = linear(build.mul(c, steps.plus(constant(1)).expr())).plus(constant(-1))
        return _at_least_zero(below.plus(linear(a), -1), axes)

    least, most = bounds
    known = paired(solved(most), solved(least), axes)
    if isinstance(c, Const):
        return known
    positive, unknown = build.apply("gt", c, ZERO), build.apply("le", c, ZERO)
    return either(both(gate(positive, positive, axes), known, axes), gate(unknown, build.FALSE, axes), axes)


# ---- minima and maxima over a tile


def _extremes_of_sum(form: Linear, axes: Axes) -> _Bounds | None:
    """The bounds of a sum; None if a term is streamed or has no bounds."""
    least, most = constant(form.constant), constant(form.constant)
    for term, factor in form.terms:
        bounds = None if axes.stream in free_axes(term) else _extremes(term, axes)
        if bounds is None:
            return None
        low, high = bounds if factor > 0 else bounds[::-1]
        least, most = least.plus(linear(low), factor), most.plus(linear(high), factor)
    return least.expr(), most.expr()


def _extremes(expr: Expr, axes: Axes) -> _Bounds | None:
    if is_uniform(expr, axes):
        return expr, expr
    match expr:
        case Index():
            return FIRST, LAST
        case Read(kind="int"):
            return axes.over_tile("least", expr), axes.over_tile("most", expr)
        case Apply(op="max" | "min" as op, args=(a, b)):
            return _pairwise(op, _whole(a, axes), _whole(b, axes), axes)
        case Apply(op="where", args=(_, a, b)) if kind_of(a) == kind_of(b) == "int":
            first, second = _whole(a, axes), _whole(b, axes)
            return None if first is None or second is None else _hull((*first, *second), axes)
        case Apply(op="abs", args=(a,)):
            inner = _whole(a, axes)
            return None if inner is None else _of_abs(*inner, axes)
        case Apply(op="floordiv" | "mul" as op, args=(a, c)) if is_uniform(c, axes):
            return _monotone(op, _whole(a, axes), c, axes)
        case Apply(op="mul", args=(c, a)) if is_uniform(c, axes):
            return _monotone("mul", _whole(a, axes), c, axes)
        case Apply(op="mod", args=(a, c)) if is_uniform(c, axes):
            return _remainder(_whole(a, axes), c, axes)
        case _:
            return None


def _whole(expr: Expr, axes: Axes) -> _Bounds | None:
    return _extremes_of_sum(linear(expr), axes)


def _hull(values: tuple[Expr, ...], axes: Axes) -> _Bounds:
    least, most = values[0], values[0]
    for value in values[1:]:
        least, most = smallest(least, value, axes.resident), largest(most, value, axes.resident)
    return least, most


def _monotone(op: str, bounds: _Bounds | None, c: Expr, axes: Axes) -> _Bounds | None:
    """The bounds of `x op c`, monotone in x; the sign of c gives the direction."""
    if bounds is None:
        return None
    ends = (build.apply(op, bounds[0], c), build.apply(op, bounds[1], c))
    return ends if isinstance(c, Const) and c.value > 0 else _hull(ends, axes)


def _remainder(bounds: _Bounds | None, c: Expr, axes: Axes) -> _Bounds | None:
    """The bounds of `x % c`: monotone in x within one quotient, else between 0 and c, exclusive."""
    if bounds is None:
        return None
    first, last = (build.apply("floordiv", x, c) for x in bounds)
    positive, one = isinstance(c, Const) and c.value > 0, build.const(1)
    least = ZERO if positive else smallest(ZERO, build.add(c, one), axes.resident)
    most = build.sub(c, one) if positive else largest(ZERO, build.sub(c, one), axes.resident)
    same = build.apply("eq", first, last)
    low, high = (build.apply("mod", x, c) for x in bounds)
    return build.apply("where", same, low, least), build.apply("where", same, high, most)


def _pairwise(op: str, a: _Bounds | None, b: _Bounds | None, axes: Axes) -> _Bounds | None:
    if a is None or b is None:
        return None
    choose = largest if op == "max" else smallest
    return choose(a[0], b[0], axes.resident), choose(a[1], b[1], axes.resident)


def _of_abs(least: Expr, most: Expr, axes: Axes) -> _Bounds:
    away = largest(least, build.neg(most), axes.resident)
    return largest(ZERO, away, axes.resident), largest(build.neg(least), most, axes.resident)

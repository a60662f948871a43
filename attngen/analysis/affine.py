"""Integer index expressions as linear forms, and their order as far as it is known.

    linear form = constant + sum of (integer coefficient) * (term)

A term is any integer expression that is not a sum: an index, an extent, a captured number, a product of these. Linear forms normalise
expressions for comparison. "Known" means true for every tile and every extent; an unknown order is expressed by max, min or a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read

FIRST = Read("first", (), "int")
"""The first position of a resident tile."""
LAST = Read("last", (), "int")
"""The last position of a resident tile, inclusive and within the axis."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(coefficient * term)`, terms distinct and in order of appearance, no coefficient 0."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def coefficient(self, term: Expr) -> int:
        """The coefficient of a term, 0 if it does not occur."""
        return next((factor for other, factor in self.terms if other == term), 0)

    def without(self, *dropped: Expr) -> Linear:
        """The form without some terms."""
        return Linear(tuple(item for item in self.terms if item[0] not in dropped), self.constant)

    def plus(self, other: Linear, scale: int = 1) -> Linear:
        """self + scale * other."""
        sums = dict(self.terms)
        for term, factor in other.terms:
            sums[term] = sums.get(term, 0) + scale * factor
        return Linear(tuple((t, f) for t, f in sums.items() if f != 0), self.constant + scale * other.constant)

    def expr(self) -> Expr:
        """In the shortest text: positive terms, then negative terms, then the constant."""
        parts = [_scaled(term, factor) for term, factor in self.terms if factor > 0]
        subtracted = [_scaled(term, -factor) for term, factor in self.terms if factor < 0]
        constant = self.constant
        if not parts and constant > 0:
            parts, constant = [build.const(constant)], 0
        result: Expr = build.const(0)
        for part in parts:
            result = build.add(result, part)
        for part in subtracted:
            result = build.sub(result, part)
        return build.add(result, build.const(constant)) if constant >= 0 else build.sub(result, build.const(-constant))


def _scaled(term: Expr, factor: int) -> Expr:
    return build.mul(build.const(factor), term)


def single(term: Expr, factor: int = 1) -> Linear:
    """factor * term."""
    return Linear(((term, factor),) if factor else (), 0)


def constant(value: int) -> Linear:
    """A form without terms."""
    return Linear((), value)


def linear(expr: Expr) -> Linear:
    """The linear form of an integer expression; anything but a sum or a multiple becomes a term."""
    return _linear(expr, {})


def _linear(expr: Expr, seen: dict[Expr, Linear]) -> Linear:
    """`seen` holds the forms of parts, which occur more than once."""

    def form() -> Linear:
        match expr:
            case Const(value=value):
                return constant(int(value))
            case Apply(op="add", args=(a, b)):
                return _linear(a, seen).plus(_linear(b, seen))
            case Apply(op="sub", args=(a, b)):
                return _linear(a, seen).plus(_linear(b, seen), -1)
            case Apply(op="neg", args=(a,)):
                return constant(0).plus(_linear(a, seen), -1)
            case Apply(op="mul", args=(a, b)):
                first, second = _linear(a, seen), _linear(b, seen)
                if not first.terms:
                    return constant(0).plus(second, first.constant)
                if not second.terms:
                    return constant(0).plus(first, second.constant)
                return single(expr)
            case _:
                return single(expr)

    if expr not in seen:
        seen[expr] = form()
    return seen[expr]


def nonnegative(form: Linear, resident: str) -> bool:
    """Whether a form is known to be at least 0, given 0 <= first <= last < extent(resident) and nonnegative indices and extents."""
    extent = Extent(resident)
    past_last = form.coefficient(extent)
    past_first = form.coefficient(LAST) + past_last
    at_first = form.coefficient(FIRST) + past_first
    rest = form.without(FIRST, LAST, extent)
    others = all(factor >= 0 and isinstance(term, Index | Extent) for term, factor in rest.terms)
    return min(past_last, past_first, at_first) >= 0 and others and form.constant + past_last >= 0


def at_least(a: Expr, b: Expr, resident: str) -> bool:
    """Whether a >= b is known, looking through max, min and where."""
    return _at_least(a, b, resident, {})


def _at_least(a: Expr, b: Expr, resident: str, seen: dict[tuple[Expr, Expr], bool]) -> bool:
    """`seen` holds what was found of parts: bounds share theirs, and each pair of them is compared once."""

    def known() -> bool:
        match b:
            case Apply(op="max", args=args) | Apply(op="where", args=(_, *args)):
                return all(_at_least(a, arg, resident, seen) for arg in args)
            case Apply(op="min", args=args) if any(_at_least(a, arg, resident, seen) for arg in args):
                return True
            case _:
                pass
        match a:
            case Apply(op="min", args=args) | Apply(op="where", args=(_, *args)):
                return all(_at_least(arg, b, resident, seen) for arg in args)
            case Apply(op="max", args=args) if any(_at_least(arg, b, resident, seen) for arg in args):
                return True
            case _:
                return nonnegative(linear(a).plus(linear(b), -1), resident)

    if (a, b) not in seen:
        seen[a, b] = known()
    return seen[a, b]


def compare_least(a: Expr, b: Expr, resident: str) -> Expr:
    """The predicate a >= b: a literal if known, else a comparison without negative terms."""
    if at_least(a, b, resident):
        return build.TRUE
    if at_least(build.sub(b, build.const(1)), a, resident):
        return build.FALSE
    difference = linear(a).plus(linear(b), -1)
    more = Linear(tuple(item for item in difference.terms if item[1] > 0), max(difference.constant, 0))
    less = constant(0).plus(Linear(tuple(item for item in difference.terms if item[1] < 0), min(difference.constant, 0)), -1)
    if difference.constant == -1:
        return build.apply("gt", more.expr(), less.plus(constant(-1)).expr())
    return build.apply("ge", more.expr(), less.expr())


def largest(a: Expr, b: Expr, resident: str) -> Expr:
    """max(a, b) without dominated arguments."""
    return _extreme("max", (a, b), resident)


def smallest(a: Expr, b: Expr, resident: str) -> Expr:
    """min(a, b) without dominated arguments."""
    return _extreme("min", (a, b), resident)


def _extreme(op: str, args: tuple[Expr, ...], resident: str) -> Expr:
    def dominates(x: Expr, y: Expr) -> bool:
        return at_least(x, y, resident) if op == "max" else at_least(y, x, resident)

    maximal: list[Expr] = []
    for part in (part for arg in args for part in _arguments(op, arg)):
        if not any(dominates(other, part) for other in maximal):
            maximal = [*(other for other in maximal if not dominates(part, other)), part]
    result = maximal[0]
    for part in maximal[1:]:
        result = build.apply(op, result, part)
    return result


def _arguments(op: str, expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Apply) and expr.op == op:
        return tuple(part for arg in expr.args for part in _arguments(op, arg))
    return (expr,)

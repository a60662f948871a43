"""Where an expression is known to be 0, minus infinity, infinity or not finite, whatever the values of its reads.

    where(P, s, -inf) * extent(d) ** -0.5        -inf unless P
    exp(where(P, s, -inf) - lse) * v             0 unless P
    where(P, x, 0.0) + where(Q, y, 0.0)          0 unless P or Q
    where(P, s, -inf) * scale                    -inf unless P or scale <= 0.0, of a captured scale

However a mask is spelled, a reduction may skip the elements that equal its identity. Each predicate holds where the value may differ from
the fill: None is everywhere, FALSE nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from attngen.ir import build
from attngen.ir.build import FALSE
from attngen.ir.expr import Apply, Const, Expr, Read, kind_of
from attngen.ir.signs import Signs, is_negative, is_positive
from attngen.ir.traverse import free_axes, once_a_node

Fill = Literal["zero", "low", "high", "broken"]
FILLS: tuple[Fill, ...] = ("zero", "low", "high", "broken")
_GROW = frozenset(("exp", "exp2", "softplus"))
"""Increasing, from 0 at minus infinity to infinity."""
_ODD = frozenset(("tanh", "tanh_small", "erf", "sin", "sign", "atan", "asinh", "expm1", "log1p"))
"""0 at 0; nothing is assumed at infinities."""
_ROUND = frozenset(("to_float", "floor", "ceil", "rint", "float16", "bfloat16"))


@dataclass(frozen=True, slots=True)
class Absence:
    """Predicates outside of which a value is 0, minus infinity, infinity, or not finite (`broken`, implied by `low` and `high`)."""

    zero: Expr | None = None
    low: Expr | None = None
    high: Expr | None = None
    broken: Expr | None = None

    def within(self, predicate: Expr | None) -> Absence:
        """The absence of a value masked by a predicate: a masked element may count as any fill."""
        return Absence(*(build.both(predicate, getattr(self, fill)) for fill in FILLS))


@dataclass(frozen=True, slots=True)
class Known:
    """Facts about the reads of an expression.

    Attributes:
        absences: of earlier steps, read at their own axes.
        signs: of earlier steps, by name.
        rows: the sequence axes.
        captured: names of captured inputs.
    """

    absences: Mapping[Read, Absence]
    signs: Mapping[str, Signs]
    rows: frozenset[str] = frozenset()
    captured: frozenset[str] = frozenset()


def absence(expr: Expr, known: Known) -> Absence:
    """Where a value may be something else than each of the fills.

    A product counts as 0 where one factor is, as if all factors were finite: what is missing has no value.
    """
    return once_a_node(partial(_absence, known))(expr)


def _absence(known: Known, expr: Expr, visit: Callable[[Expr], Absence]) -> Absence:
    if kind_of(expr) == "bool":
        return Absence(zero=expr)
    match expr:
        case Const(value=value):
            infinite = FALSE if value in (float("inf"), float("-inf")) else None
            zero, low, high = (FALSE if value == fill else None for fill in (0, float("-inf"), float("inf")))
            return Absence(zero, low, high, infinite)
        case Read():
            return known.absences.get(expr, Absence())
        case Apply(op="where", args=(condition, a, b)):
            first, second = visit(a), visit(b)
            return Absence(*(_chosen(condition, getattr(first, fill), getattr(second, fill)) for fill in FILLS))
        case Apply(op="mul" | "div", args=(a, b)):
            return _product(expr, (visit(a), visit(b)), known)
        case Apply(op=op, args=args):
            return _operation(op, tuple(visit(arg) for arg in args), args)
        case _:
            return Absence()


def _all(*predicates: Expr | None) -> Expr | None:
    """The conjunction, where any absence suffices; FALSE absorbs."""
    return FALSE if FALSE in predicates else build.both(*predicates)


def _any(a: Expr | None, b: Expr | None) -> Expr | None:
    """The disjunction, where both absences are needed; None absorbs."""
    if a is None or b is None:
        return None
    return a if a == b else build.apply("or", a, b)


def _chosen(condition: Expr, a: Expr | None, b: Expr | None) -> Expr | None:
    if a == b:
        return a
    first = _all(condition, a)
    second = _all(build.apply("not", condition), b)
    return _any(first, second) if FALSE not in (a, b) else first if b == FALSE else second


def _is_captured_scale(expr: Expr, known: Known) -> bool:
    """Whether an expression reads a captured tensor at no sequence position, so that a predicate may test its sign."""
    return isinstance(expr, Read) and expr.tensor in known.captured and not known.rows & set(free_axes(expr))


def _product(expr: Apply, parts: tuple[Absence, Absence], known: Known) -> Absence:
    (a, b), (x, y) = expr.args, parts
    low, high = list[Expr | None](), list[Expr | None]()
    factors = ((x, b), (y, a)) if expr.op == "mul" else ((x, b),)
    for one, other in factors:
        if is_positive(other, known.signs):
            low, high = [*low, one.low], [*high, one.high]
        elif is_negative(other, known.signs):
            low, high = [*low, one.high], [*high, one.low]
        elif one.low is not None and _is_captured_scale(other, known):
            low = [*low, build.apply("or", one.low, build.apply("le", other, Const(0, "int") if kind_of(other) == "int" else build.ZERO))]
    if expr.op == "mul":
        return Absence(_all(x.zero, y.zero), _all(*low), _all(*high), _all(x.broken, y.broken))
    return Absence(_all(x.zero, y.low, y.high), _all(*low), _all(*high), _all(x.broken, y.zero))


def _spans_zero(op: str, args: tuple[Expr, ...]) -> bool:
    """Whether a clamp with literal bounds maps 0 to 0."""
    low = args[1] if op != "clamp_max" else build.ZERO
    high = args[-1] if op != "clamp_min" else build.ZERO
    return isinstance(low, Const) and isinstance(high, Const) and low.value <= 0 <= high.value


def _operation(op: str, parts: tuple[Absence, ...], args: tuple[Expr, ...]) -> Absence:
    match op, parts:
        case "add", (x, y):
            return Absence(_any(x.zero, y.zero), _all(x.low, y.low), _all(x.high, y.high), _all(x.broken, y.broken))
        case "sub", (x, y):
            return Absence(_any(x.zero, y.zero), _all(x.low, y.high), _all(x.high, y.low), _all(x.broken, y.broken))
        case "neg", (x,):
            return Absence(x.zero, x.high, x.low, x.broken)
        case "abs", (x,):
            return Absence(x.zero, None, _all(x.low, x.high), x.broken)
        case "safe_div", (x, y):
            return Absence(_all(x.zero, y.zero))
        case "relu", (x,):
            return Absence(_all(x.zero, x.low), None, x.high, x.high)
        case "sigmoid", (x,):
            return Absence(x.low)
        case (("gelu" | "gelu_tanh"), (x,)):
            return Absence(x.zero, None, x.high, x.broken)
        case "sqrt", (x,):
            return Absence(x.zero, None, x.high, x.broken)
        case (("log" | "log2"), (x,)):
            return Absence(None, x.zero, x.high, _all(x.zero, x.broken))
        case "pow", (x, _) if isinstance(args[1], Const) and args[1].value > 0:
            return Absence(x.zero, None, x.high, x.broken)
        case (("clamp" | "hardtanh" | "clamp_min" | "clamp_max"), (x, *_)) if _spans_zero(op, args):
            return Absence(x.zero, x.low if op == "clamp_max" else None, x.high if op == "clamp_min" else None)
        case (("min" | "clamp_max"), (x, y)):
            return Absence(_any(x.zero, y.zero), _all(x.low, y.low), _any(x.high, y.high), _all(x.low, y.low))
        case (("max" | "clamp_min"), (x, y)):
            return Absence(_any(x.zero, y.zero), _any(x.low, y.low), _all(x.high, y.high), _all(x.high, y.high))
        case "logaddexp", (x, y):
            return Absence(None, _any(x.low, y.low), _all(x.high, y.high), _all(x.high, y.high))
        case _, (x,) if op in _GROW:
            return Absence(x.low, None, x.high, x.high)
        case _, (x,) if op in _ODD:
            return Absence(x.zero)
        case _, (x,) if op in _ROUND:
            return x
        case (("to_int" | "to_bool"), (x,)):
            return Absence(x.zero)
        case _:
            return Absence()

"""Folding constructors: constants, identities, double negation. Every pass builds expressions with them, so derived text stays short."""

from __future__ import annotations

import math
from collections.abc import Callable

from attngen.ir.expr import Apply, Const, Expr, Index, Kind, Read, kind_of

TRUE = Const(True, "bool")
FALSE = Const(False, "bool")
ZERO = Const(0.0, "float")
ONE = Const(1.0, "float")
NEG_INF = Const(-math.inf, "float")
INF = Const(math.inf, "float")


def const(value: bool | int | float) -> Const:
    """A literal with the kind of the Python value."""
    kind: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    return Const(value, kind)


def read(name: str, axes: tuple[str, ...], kind: Kind = "float") -> Read:
    """A read of a tensor at its own axes."""
    return Read(name, tuple(Index(axis) for axis in axes), kind)


def is_const(expr: Expr, value: float | None = None) -> bool:
    """Whether the expression is a literal, with the given value if any."""
    return isinstance(expr, Const) and (value is None or (expr.kind != "bool" and expr.value == value))


_FOLD_ONE: dict[str, Callable[[float], float]] = {"neg": lambda a: -a, "abs": lambda a: abs(a)}
_FOLD_TWO: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": lambda a, b: min(a, b),
    "max": lambda a, b: max(a, b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: float(a) ** b,
}


def _folded(op: str, args: tuple[Expr, ...]) -> Expr | None:
    values = [arg.value for arg in args if isinstance(arg, Const)]
    if len(values) != len(args) or not (op in _FOLD_ONE or op in _FOLD_TWO):
        return None
    try:
        value = _FOLD_ONE[op](values[0]) if op in _FOLD_ONE else _FOLD_TWO[op](values[0], values[1])
    except (ZeroDivisionError, OverflowError):
        return None
    if isinstance(value, complex) or (isinstance(value, float) and math.isnan(value)):
        return None
    kind = kind_of(Apply(op, args))
    return Const(float(value) if kind == "float" else value, kind)


def apply(op: str, *args: Expr) -> Expr:
    """`Apply`, simplified by rules that hold for all finite values."""
    folded = _folded(op, args)
    if folded is not None:
        return folded
    simplify = _RULES.get(op)
    simpler = simplify(*args) if simplify is not None else None
    return Apply(op, args) if simpler is None else simpler


def _keep_kind(expr: Expr, *others: Expr) -> Expr | None:
    """`expr`, or None if dropping the others would narrow the kind of the result."""
    return expr if kind_of(expr) == "float" or all(kind_of(other) != "float" for other in others) else None


def _add(a: Expr, b: Expr) -> Expr | None:
    if is_const(a, 0):
        return _keep_kind(b, a)
    if is_const(b, 0):
        return _keep_kind(a, b)
    if isinstance(b, Apply) and b.op == "neg":
        return apply("sub", a, b.args[0])
    if isinstance(a, Apply) and a.op == "neg":
        return apply("sub", b, a.args[0])
    return None


def _sub(a: Expr, b: Expr) -> Expr | None:
    if is_const(b, 0):
        return _keep_kind(a, b)
    if is_const(a, 0):
        return apply("neg", b)
    if isinstance(b, Apply) and b.op == "neg":
        return apply("add", a, b.args[0])
    if a == b and not any(isinstance(e, Read) for e in (a,)):
        return Const(0.0, "float") if kind_of(a) == "float" else Const(0, "int")
    return None


def _mul(a: Expr, b: Expr) -> Expr | None:
    for x, y in ((a, b), (b, a)):
        if is_const(x, 0):
            return Const(0.0, "float") if "float" in (kind_of(x), kind_of(y)) else Const(0, "int")
        if is_const(x, 1):
            return _keep_kind(y, x)
        if is_const(x, -1) and _keep_kind(y, x) is not None:
            return apply("neg", y)
        if isinstance(x, Apply) and x.op == "neg":
            return apply("neg", apply("mul", x.args[0], y) if x is a else apply("mul", y, x.args[0]))
    return None


def _div(a: Expr, b: Expr) -> Expr | None:
    if is_const(b, 1) and kind_of(a) == "float":
        return a
    if is_const(a, 0):
        return ZERO
    if isinstance(a, Apply) and a.op == "neg":
        return apply("neg", apply("div", a.args[0], b))
    return None


def _safe_div(a: Expr, b: Expr) -> Expr | None:
    if is_const(b, 1) and kind_of(a) == "float":
        return a
    if is_const(a, 0):
        return ZERO
    if isinstance(a, Apply) and a.op == "neg":
        return apply("neg", apply("safe_div", a.args[0], b))
    return None


def _neg(a: Expr) -> Expr | None:
    if isinstance(a, Apply) and a.op == "neg":
        return a.args[0]
    if isinstance(a, Apply) and a.op == "sub":
        return apply("sub", a.args[1], a.args[0])
    return None


def _pow(a: Expr, b: Expr) -> Expr | None:
    if is_const(b, 1) and kind_of(a) == "float":
        return a
    return ONE if is_const(b, 0) else None


def _and(a: Expr, b: Expr) -> Expr | None:
    if a == FALSE or b == FALSE:
        return FALSE
    if a in (TRUE, b):
        return b
    return a if b == TRUE else None


def _or(a: Expr, b: Expr) -> Expr | None:
    if a == TRUE or b == TRUE:
        return TRUE
    if a in (FALSE, b):
        return b
    return a if b == FALSE else None


def _not(a: Expr) -> Expr | None:
    if isinstance(a, Const):
        return FALSE if a.value else TRUE
    return a.args[0] if isinstance(a, Apply) and a.op == "not" else None


def _where(p: Expr, a: Expr, b: Expr) -> Expr | None:
    if isinstance(p, Const):
        return a if p.value else b
    return a if a == b else None


def _log(a: Expr) -> Expr | None:
    return ZERO if is_const(a, 1) else None


def _exp(a: Expr) -> Expr | None:
    return ONE if is_const(a, 0) else None


def _to_float(a: Expr) -> Expr | None:
    if isinstance(a, Const):
        return Const(float(a.value), "float")
    return a if kind_of(a) == "float" else None


_RULES: dict[str, Callable[..., Expr | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "safe_div": _safe_div,
    "neg": _neg,
    "pow": _pow,
    "and": _and,
    "or": _or,
    "not": _not,
    "where": _where,
    "log": _log,
    "exp": _exp,
    "to_float": _to_float,
}


def add(a: Expr, b: Expr) -> Expr:
    return apply("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return apply("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return apply("mul", a, b)


def neg(a: Expr) -> Expr:
    return apply("neg", a)


def safe_div(a: Expr, b: Expr) -> Expr:
    return apply("safe_div", a, b)


def exp(a: Expr) -> Expr:
    return apply("exp", a)


def log(a: Expr) -> Expr:
    return apply("log", a)


def both(*predicates: Expr | None) -> Expr | None:
    """The conjunction of predicates without duplicates; None is true."""
    parts: dict[Expr, None] = {}
    for predicate in predicates:
        for part in conjuncts(predicate):
            parts[part] = None
    result: Expr | None = None
    for part in parts:
        result = part if result is None else apply("and", result, part)
    return result


def conjuncts(predicate: Expr | None) -> tuple[Expr, ...]:
    """The conjuncts of a predicate; () if it is true."""
    if predicate is None or predicate == TRUE:
        return ()
    if isinstance(predicate, Apply) and predicate.op == "and":
        return (*conjuncts(predicate.args[0]), *conjuncts(predicate.args[1]))
    return (predicate,)


def total(terms: list[Expr]) -> Expr:
    """The sum of terms, 0.0 for none."""
    result: Expr = ZERO
    for term in terms:
        result = add(result, term)
    return result

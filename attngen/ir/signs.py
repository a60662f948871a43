"""Sign analysis of expressions.

    extent(d) ** -0.5                positive: extents and their powers are
    0.5 * exp(x)                     positive for any x
    x * x + 1.0                      positive: squares are not negative
    scale                            any: a captured number may change between calls

Signs are those of real arithmetic: an exponential is positive even if it underflows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of
from attngen.ir.traverse import once_a_node, walk

Signs = frozenset[int]
"""The possible signs of a value: a subset of -1, 0 and 1."""

ANY: Signs = frozenset((-1, 0, 1))
POSITIVE: Signs = frozenset((1,))
NEGATIVE: Signs = frozenset((-1,))
NOT_NEGATIVE: Signs = frozenset((0, 1))
_ZERO: Signs = frozenset((0,))
_ABOVE_ZERO = frozenset(("exp", "exp2", "sigmoid", "softplus"))
_ODD = frozenset(("to_float", "sign", "tanh", "tanh_small", "erf", "atan", "asinh", "expm1", "log1p"))
"""Operations whose result has the sign of the argument."""
_NEVER_UNDERFLOW = frozenset(
    ("add", "sub", "mul", "neg", "abs", "min", "max", "clamp", "clamp_min", "clamp_max", "where", "to_float", "to_int", "floordiv", "mod")
)
_OF_STEPS: Mapping[str, Signs] = {}


def signs(expr: Expr, steps: Mapping[str, Signs] = _OF_STEPS) -> Signs:
    """The signs that an expression may have: a superset of those it has.

    Args:
        expr: of any kind.
        steps: the signs of earlier steps, by name.
    """
    return once_a_node(partial(_signs, steps))(expr)


def _signs(steps: Mapping[str, Signs], expr: Expr, visit: Callable[[Expr], Signs]) -> Signs:
    match expr:
        case Const(value=value):
            return frozenset(((value > 0) - (value < 0),))
        case Extent():
            return POSITIVE
        case Index() | Start() | Offset():
            return NOT_NEGATIVE
        case Read(tensor=name):
            return steps.get(name, NOT_NEGATIVE if kind_of(expr) == "bool" else ANY)
        case Apply(op="where", args=(_, a, b)):
            return visit(a) | visit(b)
        case Apply(op="mul", args=(a, b)) if a == b:
            return _square(visit(a))
        case Apply(op="pow", args=(a, Const(value=power))) if power % 2 == 0:
            squared = _square(visit(a))
            return squared | POSITIVE if power <= 0 else squared
        case Apply(op=op, args=args):
            return NOT_NEGATIVE if kind_of(expr) == "bool" else _operation(op, tuple(visit(arg) for arg in args))


def is_positive(expr: Expr, steps: Mapping[str, Signs] = _OF_STEPS) -> bool:
    """Whether an unmasked value is known to be greater than 0."""
    return signs(expr, steps) == POSITIVE


def is_negative(expr: Expr, steps: Mapping[str, Signs] = _OF_STEPS) -> bool:
    """Whether an unmasked value is known to be less than 0."""
    return signs(expr, steps) == NEGATIVE


def is_normal(expr: Expr) -> bool:
    """Whether a value is positive in floating point too: it cannot underflow to 0 and holds no infinite literal."""
    nodes = tuple(walk(expr))
    exact = all(node.op in _NEVER_UNDERFLOW for node in nodes if isinstance(node, Apply))
    return exact and is_positive(expr) and not any(isinstance(node, Const) and abs(node.value) == float("inf") for node in nodes)


def is_positive_constant(expr: Expr) -> bool:
    """Whether a value is positive, finite and depends on extents only: it reads no tensor and no position."""
    nodes = tuple(walk(expr))
    fixed = not any(isinstance(node, Read | Index | Start | Offset) for node in nodes)
    return fixed and is_positive(expr) and not any(isinstance(node, Const) and abs(node.value) == float("inf") for node in nodes)


def _square(of: Signs) -> Signs:
    return frozenset(sign * sign for sign in of)


def _operation(op: str, args: tuple[Signs, ...]) -> Signs:
    if op in _ABOVE_ZERO:
        return POSITIVE
    match op, args:
        case "add", (a, b):
            return frozenset(sign for x in a for y in b for sign in _sum(x, y))
        case "sub", (a, b):
            return frozenset(sign for x in a for y in b for sign in _sum(x, -y))
        case (("mul" | "safe_div"), (a, b)):
            return frozenset(x * y for x in a for y in b)
        case "div", (a, b):
            return frozenset(sign for x in a for y in b for sign in ((x * y,) if y else (x, -x)))
        case "neg", (a,):
            return frozenset(-x for x in a)
        case "abs", (a,):
            return _square(a)
        case "sqrt", (a,):
            return a - NEGATIVE or _ZERO
        case "rsqrt", _:
            return POSITIVE
        case "pow", (a, _) if a <= NOT_NEGATIVE:
            return a | POSITIVE
        case "relu", (a,):
            return frozenset(max(x, 0) for x in a)
        case (("min" | "max" | "clamp_max" | "clamp_min") as op, (a, b)):
            choose = min if op in ("min", "clamp_max") else max
            return frozenset(choose(x, y) for x in a for y in b)
        case (("clamp" | "hardtanh"), (a, low, high)):
            return frozenset(min(max(x, least), most) for x in a for least in low for most in high)
        case "mod", (_, b) if b <= NOT_NEGATIVE:
            return NOT_NEGATIVE
        case (("floor" | "ceil" | "rint" | "float16" | "bfloat16" | "to_int" | "floordiv"), _):
            return NOT_NEGATIVE if all(x <= NOT_NEGATIVE for x in args) else ANY
        case _ if op in _ODD:
            return args[0]
        case _:
            return ANY


def _sum(x: int, y: int) -> tuple[int, ...]:
    """The possible signs of a sum, given the signs of its terms."""
    return (-1, 0, 1) if x * y < 0 else ((x or y),)

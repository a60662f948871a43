"""Bounds of numeric expressions, by interval arithmetic. Intervals are rounded outwards, never inwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from attngen.analysis.affine import linear
from attngen.ir.expr import Apply, Const, Expr, kind_of
from attngen.ir.traverse import once_a_node

ValueRange = tuple[float, float]
"""Smallest and largest value, both included; infinite where nothing is known."""
UNKNOWN: ValueRange = (-math.inf, math.inf)


def value_range(expr: Expr, known: Mapping[Expr, ValueRange]) -> ValueRange:
    """Bounds of a numeric expression.

    Args:
        known: bounds of indices, extents and reads.

    Returns:
        An interval that holds every value; exact for a linear form of independent terms.
    """
    return once_a_node(partial(_interval, known))(expr)


def _interval(known: Mapping[Expr, ValueRange], expr: Expr, visit: Callable[[Expr], ValueRange]) -> ValueRange:
    """Of whole numbers by their linear form, of others by the operation."""
    if kind_of(expr) != "int":
        return _of_node(expr, known, visit)
    form = linear(expr)
    low = high = float(form.constant)
    for term, factor in form.terms:
        bounds = _of_node(term, known, visit)
        ends = sorted((factor * bounds[0], factor * bounds[1]))
        low, high = low + ends[0], high + ends[1]
    return low, high


def _of_node(expr: Expr, known: Mapping[Expr, ValueRange], visit: Callable[[Expr], ValueRange]) -> ValueRange:
    match expr:
        case Const(value=value):
            return float(value), float(value)
        case Apply(op="where", args=(_, a, b)):
            first, second = visit(a), visit(b)
            return min(first[0], second[0]), max(first[1], second[1])
        case Apply(op=op, args=args):
            return _operation(op, tuple(visit(arg) for arg in args))
        case _:
            return known.get(expr, UNKNOWN)


def _operation(op: str, args: tuple[ValueRange, ...]) -> ValueRange:
    match op, args:
        case "add", ((a, b), (c, d)):
            return a + c, b + d
        case "sub", ((a, b), (c, d)):
            return a - d, b - c
        case "neg", ((a, b),):
            return -b, -a
        case "abs", ((a, b),):
            return (0.0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
        case (("min" | "clamp_max"), ((a, b), (c, d))):
            return min(a, c), min(b, d)
        case (("max" | "clamp_min"), ((a, b), (c, d))):
            return max(a, c), max(b, d)
        case (("clamp" | "hardtanh"), (x, low, high)):
            return _operation("min", (_operation("max", (x, low)), high))
        case (("tanh" | "tanh_small" | "sin" | "cos" | "erf"), _):
            return -1.0, 1.0
        case "atan", _:
            return -math.pi / 2, math.pi / 2
        case "sigmoid", _:
            return 0.0, 1.0
        case "to_float", (only,):
            return only
        case "div", ((a, b), (c, d)) if c == d and c != 0:
            ends = sorted((a / c, b / c))
            return ends[0], ends[1]
        case "mul", ((a, b), (c, d)) if all(map(math.isfinite, (a, b, c, d))):
            products = (a * c, a * d, b * c, b * d)
            return min(products), max(products)
        case "floordiv", ((a, b), (c, d)) if c == d and 0 < c < math.inf and math.isfinite(a) and math.isfinite(b):
            return a // c, b // c
        case "mod", ((a, b), (c, d)) if c == d and 0 < c < math.inf:
            same_period = math.isfinite(a) and math.isfinite(b) and a // c == b // c
            return (a % c, b % c) if same_period else (0.0, c)
        case _:
            return UNKNOWN

"""The class of one tile under a predicate, by interval arithmetic in three-valued logic.

Takes numbers: positions of the tile, extents, values of captured scalars. It is what the closed-form ranges of `mask` are checked
against and what pictures are drawn from; kernels do not use it. Intervals are rounded outwards, never inwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum

from attngen.analysis.affine import linear
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import walk

_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


class TileClass(Enum):
    """What a predicate does to a tile."""

    EMPTY = "empty"
    PARTIAL = "partial"
    FULL = "full"


def classify(
    predicate: Expr | None,
    positions: Mapping[str, tuple[int, int]],
    extents: Mapping[str, int] | None = None,
    scalars: Mapping[str, bool | int | float] | None = None,
) -> TileClass:
    """The class of a tile, by interval arithmetic in three-valued logic.

    Args:
        predicate: which elements exist; None for all of them.
        positions: for each axis in the predicate the half-open, nonempty range of positions in the tile.
        extents: lengths of the axes whose extent is used.
        scalars: values of captured numbers; other reads count as unknown.

    Returns:
        EMPTY or FULL only if every element of the tile is missing or existing.
    """
    known: dict[Expr, ValueRange] = {Index(axis): (lo, hi - 1) for axis, (lo, hi) in positions.items()}
    known.update({Extent(axis): (length, length) for axis, length in (extents or {}).items()})
    for node in walk(build.TRUE if predicate is None else predicate):
        if isinstance(node, Read) and node.tensor in (scalars or {}) and not node.at:
            value = float((scalars or {})[node.tensor])
            known[node] = (value, value)
    may_hold, may_fail = _truth(build.TRUE if predicate is None else predicate, known)
    if may_hold and may_fail:
        return TileClass.PARTIAL
    return TileClass.FULL if may_hold else TileClass.EMPTY


def _truth(predicate: Expr, known: Mapping[Expr, ValueRange]) -> tuple[bool, bool]:
    """Whether the predicate may be true, and whether it may be false."""
    match predicate:
        case Const(value=value):
            return bool(value), not value
        case Apply(op="and", args=(a, b)):
            (a_holds, a_fails), (b_holds, b_fails) = _truth(a, known), _truth(b, known)
            return a_holds and b_holds, a_fails or b_fails
        case Apply(op="or", args=(a, b)):
            (a_holds, a_fails), (b_holds, b_fails) = _truth(a, known), _truth(b, known)
            return a_holds or b_holds, a_fails and b_fails
        case Apply(op="not", args=(a,)):
            holds, fails = _truth(a, known)
            return fails, holds
        case Apply(op=op, args=(a, b)) if op in _COMPARISONS and kind_of(a) != "bool":
            return _compare(op, value_range(build.sub(a, b), known))
        case Read() if predicate in known:
            return known[predicate][1] != 0, known[predicate][0] == 0
        case _:
            return True, True


def _compare(op: str, difference: ValueRange) -> tuple[bool, bool]:
    low, high = difference
    match op:
        case "ge":
            return high >= 0, low < 0
        case "gt":
            return high > 0, low <= 0
        case "le":
            return low <= 0, high > 0
        case "lt":
            return low < 0, high >= 0
        case "eq":
            return low <= 0 <= high, not low == high == 0
        case _:
            return not low == high == 0, low <= 0 <= high


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
    if kind_of(expr) != "int":
        return _interval(expr, known)
    form = linear(expr)
    low = high = float(form.constant)
    for term, factor in form.terms:
        bounds = _interval(term, known)
        ends = sorted((factor * bounds[0], factor * bounds[1]))
        low, high = low + ends[0], high + ends[1]
    return low, high


def _interval(expr: Expr, known: Mapping[Expr, ValueRange]) -> ValueRange:
    match expr:
        case Const(value=value):
            return float(value), float(value)
        case Apply(op="where", args=(_, a, b)):
            first, second = value_range(a, known), value_range(b, known)
            return min(first[0], second[0]), max(first[1], second[1])
        case Apply(op=op, args=args):
            return _operation(op, tuple(value_range(arg, known) for arg in args))
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

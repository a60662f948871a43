"""Whole numbers by hand: what an expression over positions and captured numbers is worth, and which positions an interval holds."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.analysis.intervals import Interval, Intervals
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read
from attngen.ir.parser import parse

Known = Mapping[str, int]
"""By name: positions, captured numbers, and lengths as `len_n`."""

FUNCTIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "neg": lambda a: -a,
    "min": min,
    "max": max,
    "abs": abs,
    "where": lambda c, a, b: a if c else b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def whole(text: str, captures: str = "w: int, c: int, doc: int[:]") -> Expr:
    """An integer expression of positions m and n."""
    step = parse(f"cascade(a[m], b[n]; {captures})\n x[m,n] = a[m] * b[n]  if {text} >= 0\n -> x").steps[0]
    assert isinstance(step.where, Apply)
    return step.where.args[0]


def predicate(text: str, captures: str = "w: int, c: int, doc: int[:]") -> Expr:
    """A predicate of positions m and n."""
    where = parse(f"cascade(a[m], b[n]; {captures})\n x[m,n] = a[m] * b[n]  if {text}\n -> x").steps[0].where
    assert where is not None
    return where


def value(expr: Expr, known: Known) -> int:
    match expr:
        case Const(value=number):
            return int(number)
        case Index(axis=axis):
            return known[axis]
        case Extent(axis=axis):
            return known[f"len_{axis}"]
        case Read(tensor=name, at=()):
            return known[name]
        case Apply(op="where", args=(condition, a, b)):
            return value(a if value(condition, known) else b, known)
        case Apply(op=op, args=args):
            return FUNCTIONS[op](*(value(arg, known) for arg in args))
        case _:
            raise AssertionError(expr)


def positions(interval: Interval, known: Known, axis: str = "n") -> set[int]:
    """What an interval holds of an axis."""
    return set(range(max(0, value(interval.lo, known)), min(known[f"len_{axis}"], value(interval.hi, known))))


def may(found: Intervals, known: Known) -> set[int]:
    return set().union(*(positions(piece.may, known) for piece in found.pieces))


def must(found: Intervals, known: Known) -> set[int]:
    """A `must` counts where the `may` beside it is not empty."""
    return set().union(*(positions(piece.must, known) & positions(piece.may, known) for piece in found.pieces))

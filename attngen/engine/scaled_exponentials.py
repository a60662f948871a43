"""Exponentials of scaled distances: `exp(x * scale - row)` over a tile of pairs is one operation of the library, not three.

w_1 = s * scale
w_2 = w_1 - m_i_safe        ->      w = exp_scaled(s, scale, m_i_safe)
w = exp(w_2)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Read
from attngen.tile.nodes import Let, Statement
from attngen.tile.operands import names_of


@dataclass(frozen=True, slots=True)
class Exponential:
    """The value `name` is exp(x * scale - row); `x` is a value, `row` varies along fewer axes, `scale` is a number."""

    name: str
    x: str
    scale: Expr
    row: Expr


@dataclass(frozen=True, slots=True)
class Exponentials:
    """Those of a loop by their names, and the statements that they absorb."""

    found: dict[str, Exponential]
    absorbed: frozenset[Statement]


def exponentials(body: tuple[Statement, ...], numbers: Collection[str]) -> Exponentials:
    """The exponentials of scaled distances in three-address form.

    Args:
        body: of a loop.
        numbers: names of values that are Python numbers.
    """
    lets = {item.name: item for item in body if isinstance(item, Let)}
    uses: dict[str, int] = {}
    for item in body:
        for name in names_of(item):
            uses[name] = uses.get(name, 0) + 1

    def alone(expr: Expr, op: str) -> Let | None:
        """The statement of an operand that nothing else reads, if it is this operation."""
        item = lets.get(expr.tensor) if isinstance(expr, Read) else None
        return item if item is not None and uses[item.name] == 1 and isinstance(item.body, Apply) and item.body.op == op else None

    def is_number(expr: Expr) -> bool:
        return isinstance(expr, Const | Extent) or (isinstance(expr, Read) and not expr.at and expr.tensor in numbers)

    found: dict[str, Exponential] = {}
    absorbed: set[Statement] = set()
    for item in lets.values():
        distance = alone(item.body.args[0], "sub") if isinstance(item.body, Apply) and item.body.op == "exp" else None
        if distance is None or not isinstance(distance.body, Apply):
            continue
        x, row = distance.body.args
        if not isinstance(x, Read) or not isinstance(row, Read) or not set(_axes(row)) < set(_axes(x)):
            continue
        scale: Expr = build.ONE
        product = alone(x, "mul")
        mine = {distance}
        if product is not None and isinstance(product.body, Apply):
            a, b = product.body.args
            a, b = (b, a) if is_number(a) else (a, b)
            if isinstance(a, Read) and is_number(b) and product.axes == distance.axes:
                x, scale, mine = a, b, {distance, product}
        if distance.axes == item.axes and set(_axes(x)) == set(item.axes):
            found[item.name] = Exponential(item.name, x.tensor, scale, row)
            absorbed |= mine
    return Exponentials(found, frozenset(absorbed))


def _axes(read: Read) -> tuple[str, ...]:
    return tuple(axis for place in read.at for axis in (getattr(place, "axis", ""),))

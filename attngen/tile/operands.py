"""What a statement of a tile program reads: the names of values that it works on as they are, and expressions."""

from __future__ import annotations

from attngen.ir.expr import Expr
from attngen.ir.traverse import names_read
from attngen.tile.nodes import Dot, Let, Load, Reduce, Scatter, Select, Statement, Store


def operands(item: Statement) -> tuple[str, ...]:
    """Values that a statement reads by name; a mask comes last."""
    match item:
        case Dot(left=left, right=right, add=add):
            return (left, right, add) if add else (left, right)
        case Select(value=value, mask=mask):
            return value, mask
        case Scatter(value=value, mask=mask):
            return (value, mask) if mask else (value,)
        case Reduce(value=value) | Store(value=value):
            return (value,)
        case Let() | Load():
            return ()


def exprs(item: Statement) -> tuple[Expr, ...]:
    """Expressions that a statement has: a body, or positions."""
    match item:
        case Let(body=body):
            return (body,)
        case Load(at=at) | Scatter(at=at):
            return at
        case _:
            return ()


def names_of(item: Statement) -> tuple[str, ...]:
    """All names that a statement reads, each once: values, and numbers of the program."""
    found = (name for expr in exprs(item) for name in names_read(expr))
    return tuple(dict.fromkeys((*operands(item), *found)))

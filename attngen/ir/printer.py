"""The text of an expression, which `parser` reads back. `str` of a step or a cascade is made of it."""

from __future__ import annotations

import math

from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Offset, Read, Start

_UNARY = frozenset(("neg", "not"))
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


def print_expr(expr: Expr) -> str:
    """Infix text with minimal parentheses."""
    return _print(expr)[0]


def _print(expr: Expr) -> tuple[str, int]:
    match expr:
        case Const():
            return _print_const(expr)
        case Index(axis=axis):
            return axis, 100
        case Extent(axis=axis):
            return f"extent({axis})", 100
        case Start(axis=axis):
            return f"start({axis})", 100
        case Offset(axis=axis):
            return f"offset({axis})", 100
        case Read(tensor=tensor, at=at):
            return (f"{tensor}[{','.join(print_expr(arg) for arg in at)}]" if at else tensor), 100
        case Apply(op=name, args=args):
            op = OPS[name]
            if op.symbol is None:
                return f"{name}({', '.join(print_expr(arg) for arg in args)})", 100
            if name in _UNARY:
                space = " " if name == "not" else ""
                return f"{op.symbol}{space}{_operand(args[0], op.precedence)}", op.precedence
            tight = name in _COMPARISONS or name == "pow"
            left = _operand(args[0], op.precedence + tight)
            right = _operand(args[1], OPS["neg"].precedence if name == "pow" else op.precedence + 1)
            return f"{left} {op.symbol} {right}", op.precedence


def _operand(expr: Expr, precedence: int) -> str:
    text, own = _print(expr)
    return text if own >= precedence else f"({text})"


def _print_const(const: Const) -> tuple[str, int]:
    if const.kind == "float" and math.isinf(const.value):
        return ("inf", 100) if const.value > 0 else ("-inf", OPS["neg"].precedence)
    negative = const.kind != "bool" and (const.value < 0 or str(const.value).startswith("-"))
    return repr(const.value), OPS["neg"].precedence if negative else 100

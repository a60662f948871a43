"""The text of a cascade, used in cache keys, goldens and the docstring of the emitted kernel. `parser.parse` reads it back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Offset, Read, Start
from attngen.ir.traverse import rewrite

_UNARY = frozenset(("neg", "not"))
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


def print_expr(expr: Expr) -> str:
    """Infix text with minimal parentheses."""
    return _print(expr)[0]


def spell(expr: Expr, steps: Iterable[Einsum]) -> str:
    """The text of an expression for a message: steps under the user's names, unnamed pointwise steps inlined."""
    known = {step.name: step for step in steps}

    def rule(node: Expr) -> Expr | None:
        step = known.get(node.tensor) if isinstance(node, Read) else None
        if step is None or not isinstance(node, Read) or step.called == step.name:
            return None
        if step.reduce is None and not step.called.isidentifier():
            return rewrite(step.body, rule)
        return Read(step.called, node.at, node.kind)

    return print_expr(rewrite(expr, rule))


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


def print_step(step: Einsum) -> str:
    """`name[axes] = reduce[over] body  if where`."""
    axes = f"[{','.join(step.axes)}]" if step.axes else ""
    reduce = f"{step.reduce}[{','.join(step.over)}] " if step.reduce else ""
    where = f"  if {print_expr(step.where)}" if step.where is not None else ""
    return f"{step.name}{axes} = {reduce}{print_expr(step.body)}{where}"


def print_input(item: Input) -> str:
    """`q[b,h,m,d]`, `slopes: float[:]`, or `window: int` for a captured number."""
    if item.axes is not None:
        suffix = "" if item.kind == "float" else f": {item.kind}"
        return f"{item.name}[{','.join(item.axes)}]{suffix}"
    return f"{item.name}: {item.kind}" + ("" if item.number else f"[{', '.join(':' * item.rank)}]")


def print_cascade(cascade: Cascade) -> str:
    """One line for the inputs, one for each step, one for the outputs."""
    arguments = ", ".join(print_input(item) for item in cascade.inputs if item.axes is not None)
    captures = ", ".join(print_input(item) for item in cascade.inputs if item.axes is None)
    head = f"cascade({arguments}; {captures})" if captures else f"cascade({arguments})"
    lines = [head, *(f"  {print_step(step)}" for step in cascade.steps), f"  -> {', '.join(cascade.outputs)}"]
    return "\n".join(lines)

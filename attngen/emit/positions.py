"""Positions within captured tensors as torch expressions, for gradients that the host brings to their places."""

from __future__ import annotations

from attngen.emit.identifiers import number, tensor_name
from attngen.errors import UnsupportedError
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Read
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes

_INFIX = {
    **{op: OPS[op].symbol for op in ("add", "sub", "mul", "floordiv", "mod", "shl", "shr", "bitand", "bitor", "bitxor")},
    **{op: OPS[op].symbol for op in ("lt", "le", "gt", "ge", "eq", "ne")},
    "and": "&",
    "or": "|",
}
"""Operators that torch has for tensors as Python for numbers."""


def on_host(expr: Expr) -> str:
    """A position as a torch expression of `at_*` and lengths."""
    match expr:
        case Const(value=value):
            return number(value)
        case Index(axis=axis):
            return f"at_{axis}"
        case Extent(axis=axis):
            return f"len_{axis}"
        case Read(tensor=name, at=at):
            return f"{tensor_name(name)}[{', '.join(_inside(arg, name, i) for i, arg in enumerate(at))}]" if at else str(tensor_name(name))
        case Apply(op=op, args=(a, b)) if op in _INFIX:
            return f"{_operand(a)} {_INFIX[op]} {_operand(b)}"
        case Apply(op="neg", args=(a,)):
            return f"-{_operand(a)}"
        case Apply(op="min" | "max" as op, args=(a, b)):
            first, second = (a, b) if free_axes(a) else (b, a)
            if not free_axes(first):
                return f"{op}({on_host(a)}, {on_host(b)})"
            return f"{_operand(first)}.clamp({'max' if op == 'min' else 'min'}={on_host(second)})"
        case Apply(op="abs", args=(a,)):
            return f"{_operand(a)}.abs()" if free_axes(a) else f"abs({on_host(a)})"
        case Apply(op="not", args=(a,)) if free_axes(a):
            return f"~{_operand(a)}"
        case Apply(op="where", args=(p, a, b)):
            chosen = on_host(p) if free_axes(p) else f"torch.as_tensor({on_host(p)})"
            return f"torch.where({chosen}, {on_host(a)}, {on_host(b)})"
        case _:
            raise UnsupportedError(
                f"the gradient at position {print_expr(expr)} cannot be completed on the host",
                remedy="Compute the position with + - * // %, clamp, abs and where from indices, lengths and captured integers.",
            )


def _operand(expr: Expr) -> str:
    return f"({on_host(expr)})" if isinstance(expr, Apply) else on_host(expr)


def _inside(at: Expr, name: str, position: int) -> str:
    """A computed position that may lie outside of the tensor at elements that do not exist."""
    text = on_host(at)
    size = f"{tensor_name(name)}.shape[{position}]"
    return f"({text}).clamp(-{size}, {size} - 1)" if isinstance(at, Apply) and free_axes(at) else text

"""Powers to Triton text: as cheap as what is known of base and exponent allows, and everywhere as in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attngen.emit.identifiers import number
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, kind_of
from attngen.ir.signs import is_normal

if TYPE_CHECKING:
    from attngen.emit.expression import Layout, Printer

_ATOM = 100
_LONGEST_PRODUCT = 8


def power(printer: Printer, expr: Apply, layout: Layout) -> tuple[str, int]:
    """Products for small whole exponents, roots, a logarithm of what is known to be positive, and a function for all else."""
    base, exponent = expr.args
    if isinstance(exponent, Const) and not isinstance(base, Const) and printer.is_constant(base):
        text = printer.operand(base, layout, 12)
        return f"{text} ** {number(exponent.value)}" if text.startswith("(") else f"{text}**{number(exponent.value)}", 12
    if isinstance(exponent, Const):
        value = float(exponent.value)
        if value == 0.5:
            return printer.call("tl.sqrt", (_as_float(base),), layout), _ATOM
        if value == -0.5:
            return printer.call("tl.rsqrt", (_as_float(base),), layout), _ATOM
        if value.is_integer() and 2 <= value <= _LONGEST_PRODUCT:
            text = printer.operand(_as_float(base), layout, _ATOM)
            return " * ".join([text] * int(value)), 10
        if value == -1.0:
            return f"1.0 / {printer.operand(_as_float(base), layout, 11)}", 10
        if value.is_integer() and value != 0:
            size = abs(int(value))
            printer.values.use("whole_power")
            text = printer.call("whole_power", (_as_float(base),), layout, str(size), str(size.bit_length()))
            return (text, _ATOM) if value > 0 else (f"1.0 / {text}", 10)
    if is_normal(base) or (isinstance(exponent, Const) and not isinstance(base, Const)):
        log = Apply("log2", (_as_float(base),))
        return printer.call("tl.exp2", (build.mul(exponent, log),), layout), _ATOM
    printer.values.use("power")
    return printer.call("power", (_as_float(base), _as_float(exponent)), layout, "DTYPE"), _ATOM


def int_power(printer: Printer, expr: Apply, layout: Layout) -> tuple[str, int]:
    """In 64 bits; with a literal exponent by few products."""
    base, exponent = expr.args
    if not isinstance(exponent, Const) or exponent.value < 1:
        printer.values.use("int_pow")
        return printer.call("int_pow", expr.args, layout), _ATOM
    printer.values.use("whole_power")
    size = int(exponent.value)
    return f"whole_power(tl.cast({printer.code(base, layout)}, tl.int64), {size}, {size.bit_length()})", _ATOM


def _as_float(expr: Expr) -> Expr:
    return expr if kind_of(expr) == "float" else Apply("to_float", (expr,))

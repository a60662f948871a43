"""Expressions to Triton text, with broadcasting.

Every value in a kernel has a *layout*: the tile axes it varies along, () for a scalar, ("m",) for a row vector, ("m", "n") for a tile.
`Printer.code(expr, layout)` prints an expression for a layout; a part that varies along fewer axes is computed as a vector of its own
first and broadcast where it meets the tile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol, TypeGuard

from attngen.emit.dialect import Dialect
from attngen.emit.identifiers import Code, number
from attngen.emit.powers import int_power, power
from attngen.errors import InternalError, UnsupportedError
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import walk

Layout = tuple[str, ...]

_INFIX: dict[str, tuple[str, int]] = {
    "or": ("|", 5),
    "bitor": ("|", 5),
    "bitxor": ("^", 6),
    "and": ("&", 7),
    "bitand": ("&", 7),
    "shl": ("<<", 8),
    "shr": (">>", 8),
    "add": ("+", 9),
    "sub": ("-", 9),
    "mul": ("*", 10),
    "div": ("/", 10),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "gt": (">", 4),
    "ge": (">=", 4),
    "eq": ("==", 4),
    "ne": ("!=", 4),
}
_CALLS: dict[str, str] = {
    "where": "tl.where",
    "abs": "tl.abs",
    "exp2": "tl.exp2",
    "log": "tl.log",
    "log2": "tl.log2",
    "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "erf": "tl.erf",
    "floor": "tl.floor",
    "ceil": "tl.ceil",
}
_EXTREMES = {"min": "tl.minimum", "max": "tl.maximum", "clamp_max": "tl.minimum", "clamp_min": "tl.maximum"}
_BY_PRECISION = frozenset(("tanh", "tanh_small", "gelu_tanh"))
HELPERS = (
    *("safe_div", "tanh", "tanh_small", "sigmoid", "softplus", "logaddexp", "gelu", "gelu_tanh", "sign"),
    *("expm1", "log1p", "atan", "atan2", "asinh", "rint"),
)
_ATOM, _UNARY = 100, 11


class Values(Protocol):
    """What the printer asks of the kernel being written."""

    @property
    def dialect(self) -> Dialect:
        """How it spells what depends on where values live."""
        ...

    def lift(self, text: str, own: Layout, layout: Layout, *, memory: bool) -> str:
        """Text of a value in a tile of more axes, of addresses if `memory`."""
        ...

    def leaf(self, node: Expr) -> tuple[Code, Layout]:
        """Text and layout of a read, an index or an extent; loads it if need be."""
        ...

    def is_constexpr(self, axis: str) -> bool:
        """Whether the length of an axis is known when the kernel is compiled."""
        ...

    def layout(self, expr: Expr) -> Layout:
        """The tile axes an expression varies along, in tile order."""
        ...

    def temporary(self, expr: Expr, layout: Layout) -> Code:
        """A name for a part computed in a layout of its own, as early as possible."""
        ...

    def use(self, helper: str) -> None:
        """Note that a helper function is called."""
        ...

    def halves(self, position: Expr) -> tuple[Expr, Expr]:
        """Half of a position, rounded down, and what is left of it."""
        ...


class Printer:
    """Prints expressions of one kernel."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def code(self, expr: Expr, layout: Layout) -> Code:
        """Text whose value has (or broadcasts to) `layout`."""
        return Code(self.print(expr, layout)[0])

    def operand(self, expr: Expr, layout: Layout, precedence: int) -> str:
        text, own = self.print(expr, layout)
        return text if own >= precedence else f"({text})"

    def print(self, expr: Expr, layout: Layout) -> tuple[str, int]:
        if isinstance(expr, Const):
            if expr.kind == "int" and not -(2**31) <= expr.value < 2**31:
                return self.values.dialect.scalar(number(expr.value), "tl.int64"), _ATOM
            negative = expr.kind != "bool" and str(expr.value).startswith("-")
            return number(expr.value), _UNARY if negative else _ATOM
        if isinstance(expr, Index | Extent | Start | Offset | Read):
            text, own = self.values.leaf(expr)
            return self.broadcast(text, own, layout), _ATOM
        own = self.values.layout(expr)
        if own != layout and own:
            return self.broadcast(self.values.temporary(expr, own), own, layout), _ATOM
        return self.apply(expr, layout)

    def broadcast(self, text: str, own: Layout, layout: Layout, *, memory: bool = False) -> str:
        """Add the subscripts that lift a value into a tile of more axes, of addresses if `memory`."""
        if own == layout or not own:
            return text
        if tuple(axis for axis in layout if axis in own) != own:
            raise InternalError(f"{text} varies along {own}, which does not fit into a tile of {layout}")
        return self.values.lift(text, own, layout, memory=memory)

    def apply(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        special = _SPECIAL.get(expr.op)
        if special is not None:
            return special(self, expr, layout)
        if expr.op in _INFIX:
            symbol, precedence = _INFIX[expr.op]
            strict = precedence == _INFIX["lt"][1]
            left, right = self.numbers(expr)
            text = f"{self.operand(left, layout, precedence + strict)} {symbol} {self.operand(right, layout, precedence + 1)}"
            return text, precedence
        if expr.op in HELPERS:
            self.values.use(expr.op)
            return self.call(expr.op, self.numbers(expr), layout, *(["DTYPE"] if expr.op in _BY_PRECISION else [])), _ATOM
        if expr.op in _CALLS:
            return self.call(_CALLS[expr.op], self.numbers(expr), layout), _ATOM
        raise InternalError(f"no Triton text for {expr.op}")

    def numbers(self, expr: Apply) -> tuple[Expr, ...]:
        """Arguments of an operation, in the type it computes in.

        By itself Triton takes whole numbers, and constants that are not an operand of + - * /, as fp32. A truth value is a number only
        after a conversion.
        """
        if kind_of(expr) != "float":
            arithmetic = expr.op in ("add", "sub", "mul")
            return tuple(Apply("to_int", (arg,)) if arithmetic and kind_of(arg) == "bool" else arg for arg in expr.args)
        values = expr.args[1:] if expr.op == "where" else expr.args
        constant = all(isinstance(arg, Const) for arg in values)
        settled = any(kind_of(arg) == "float" and not is_number(arg) for arg in values)

        def converted(arg: Expr) -> Expr:
            if isinstance(arg, Const):
                wide = expr.op not in _INFIX and (constant or not _fits_fp32(arg.value))
            elif kind_of(arg) == "float":
                wide = expr.op not in _INFIX and self.is_constant(arg)
            else:
                wide = kind_of(arg) == "bool" or not settled
            return Apply("to_float", (arg,)) if wide else arg

        return (*expr.args[: len(expr.args) - len(values)], *map(converted, values))

    def call(self, function: str, args: tuple[Expr, ...], layout: Layout, *more: str) -> str:
        return f"{function}({', '.join([*(self.code(arg, layout) for arg in args), *more])})"

    # ---- operations with a spelling of their own

    def negate(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        return f"-{self.operand(expr.args[0], layout, _UNARY)}", _UNARY

    def invert(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        return f"~{self.operand(expr.args[0], layout, _ATOM)}", _UNARY

    def exponential(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        """`exp(tile - row)` has a form of its own, in base 2."""
        arg = expr.args[0]
        if len(layout) == 2 and isinstance(arg, Apply) and arg.op == "sub" and self.values.layout(arg.args[1]) != layout:
            tile, row = arg.args
            if self.is_scaled_tile(tile, layout):
                scaled, scale = (self.code(tile.args[0], layout), self.code(tile.args[1], ()))
                floor, more = self.lowered(row)
                helper = "exp_lowered" if more else "exp_scaled"
                self.values.use(helper)
                numbers = (self.values.temporary(part, ()) if isinstance(part, Apply) else self.code(part, ()) for part in more)
                args = (scaled, scale, self.code(floor, layout), *numbers)
                return f"{helper}({', '.join(args)}, DTYPE)", _ATOM
            self.values.use("exp_above")
            return f"exp_above({self.code(tile, layout)}, {self.code(row, layout)}, DTYPE)", _ATOM
        self.values.use("exp")
        return self.call("exp", self.numbers(expr), layout), _ATOM

    def lowered(self, row: Expr) -> tuple[Expr, tuple[Expr, ...]]:
        """A row value, and the two factors of a number that it is less than another by; none where it is no such difference."""
        match row:
            case Apply(op="sub", args=(floor, Apply(op="mul", args=(rate, distance)))) if self.values.layout(floor):
                return (floor, (rate, distance)) if not self.values.layout(rate) + self.values.layout(distance) else (row, ())
            case _:
                return row, ()

    def is_scaled_tile(self, expr: Expr, layout: Layout) -> TypeGuard[Apply]:
        """Whether a value is a whole tile of floats, times a scalar. Whole numbers would take the constant into their own type."""
        if not isinstance(expr, Apply) or expr.op != "mul":
            return False
        tile, scale = expr.args
        return kind_of(tile) == "float" and self.values.layout(tile) == layout and not self.values.layout(scale)

    def is_constant(self, expr: Expr) -> bool:
        """Whether a value is a plain number when the kernel is compiled: made of lengths of feature axes."""
        match expr:
            case Const():
                return True
            case Extent(axis=axis):
                return self.values.is_constexpr(axis)
            case Apply(op="add" | "sub" | "mul" | "div" | "neg", args=args):
                return all(map(self.is_constant, args))
            case Apply(op="pow", args=(base, Const())):
                return not isinstance(base, Const) and self.is_constant(base)
            case _:
                return False

    def extreme(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        """A number that is none stays none, as in PyTorch."""
        more = ("tl.PropagateNan.ALL",) if kind_of(expr) == "float" else ()
        return self.call(_EXTREMES[expr.op], self.numbers(expr), layout, *more), _ATOM

    def clamp(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        x, low, high = self.numbers(expr)
        return self.extreme(Apply("min", (Apply("max", (x, low)), high)), layout)

    def narrow(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        self.values.use("narrow")
        return self.call("narrow", self.numbers(expr), layout, f"tl.{expr.op}"), _ATOM

    def floor_division(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        a, b = expr.args
        if kind_of(expr) == "float":
            return self.call("tl.floor", (Apply("div", (a, b)),), layout), _ATOM
        if _nonnegative(a) and _nonnegative(b):
            return f"{self.operand(a, layout, 10)} // {self.operand(b, layout, 11)}", 10
        self.values.use("floor_div")
        return self.call("floor_div", (a, b), layout), _ATOM

    def modulo(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        a, b = expr.args
        if kind_of(expr) == "float":
            return self.print(build.sub(a, build.mul(Apply("floordiv", (a, b)), b)), layout)
        if _nonnegative(a) and _nonnegative(b):
            return f"{self.operand(a, layout, 10)} % {self.operand(b, layout, 11)}", 10
        self.values.use("floor_mod")
        return self.call("floor_mod", (a, b), layout), _ATOM

    def to_float(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        arg = expr.args[0]
        text = self.operand(arg, layout, _ATOM)
        if isinstance(arg, Const) or (kind_of(arg) == "float" and self.is_constant(arg)):
            return self.values.dialect.scalar(text, "ACC"), _ATOM
        return (text if self.is_constant(arg) else f"{text}.to(ACC)"), _ATOM

    def to_int(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        return f"{self.operand(expr.args[0], layout, _ATOM)}.to(tl.int32)", _ATOM

    def to_bool(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        return f"{self.operand(expr.args[0], layout, 5)} != 0", 4

    def rectify(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        zero = build.ZERO if kind_of(expr) == "float" else build.const(0)
        return self.call("tl.maximum", (expr.args[0], zero), layout), _ATOM

    def random_bits(self, expr: Apply, layout: Layout) -> tuple[str, int]:
        """Positions go in as halves and what is left of them: neighbours in a tile share a counter where the compiler can see it."""
        self.values.use("random_bits")
        seed, stream, *positions = expr.args
        halves = [self.values.halves(position) for position in positions]
        args = (seed, stream, *(half for half, _ in halves), *(bit for _, bit in halves))
        return self.call("random_bits", args, layout), _ATOM


_SPECIAL: dict[str, Callable[[Printer, Apply, Layout], tuple[str, int]]] = {
    "neg": Printer.negate,
    "not": Printer.invert,
    "exp": Printer.exponential,
    "pow": power,
    "int_pow": int_power,
    "floordiv": Printer.floor_division,
    "mod": Printer.modulo,
    "to_float": Printer.to_float,
    "to_int": Printer.to_int,
    "to_bool": Printer.to_bool,
    "relu": Printer.rectify,
    **dict.fromkeys(_EXTREMES, Printer.extreme),
    **dict.fromkeys(("clamp", "hardtanh"), Printer.clamp),
    **dict.fromkeys(("float16", "bfloat16"), Printer.narrow),
    "random_bits": Printer.random_bits,
}


def is_number(expr: Expr) -> bool:
    """Whether to Triton a value may be a number of Python, which takes the type of what it meets."""
    return all(isinstance(node, Const | Extent | Apply) for node in walk(expr))


def _fits_fp32(value: float) -> bool:
    try:
        return struct.unpack("f", struct.pack("f", value))[0] == value
    except OverflowError:
        return False


def _nonnegative(expr: Expr) -> bool:
    """Whether an integer expression can be seen to be >= 0, so that truncation equals floor."""
    match expr:
        case Index() | Extent() | Start() | Offset():
            return True
        case Const(value=value):
            return value >= 0
        case Apply(op="add" | "mul" | "floordiv" | "mod" | "min" | "max" as op, args=(a, b)):
            return _nonnegative(a) and _nonnegative(b) if op != "max" else _nonnegative(a) or _nonnegative(b)
        case _:
            return False


def refuse_shape(expr: Expr, layout: Layout) -> UnsupportedError:
    """A value that varies along too many axes for one tile."""
    return UnsupportedError(f"{print_expr(expr)} varies along {', '.join(layout)}: more axes than a tile has")

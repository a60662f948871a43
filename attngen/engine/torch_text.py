"""What the text of a printed program is made of: values with their axes, operands, and the names that are taken."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from attngen.analysis.affine import FIRST, LAST
from attngen.engine.operations import LIBRARY
from attngen.errors import InternalError
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Kind, Offset, Read, Start
from attngen.ir.traverse import children, walk
from attngen.tile.nodes import Axes, Let, Load, Loop, Scatter, Statement, TileProgram
from attngen.tile.operands import exprs

INDENT = "    "
DTYPES: dict[Kind, str] = {"float": "dtype", "int": "torch.int64", "bool": "torch.bool"}
CASTS: dict[Kind, str] = {"float": "to(dtype)", "int": "long()", "bool": "bool()"}


@dataclass(frozen=True, slots=True)
class Var:
    """A value in the text.

    Attributes:
        text: an expression for it, mostly a name.
        axes: of its dimensions, in order.
        kind: of its elements.
        number: whether it is a Python number.
        owned: whether its memory is that of the program alone, so that a result may be written there when it dies.
        buffer: the number of the scratch buffer that it lives in.
        exact: whether rounding to the type of the arguments changes nothing.
    """

    text: str
    axes: Axes
    kind: Kind
    number: bool = False
    owned: bool = False
    buffer: int | None = None
    exact: bool = False


def literal(value: bool | int | float) -> str:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value)


_RESERVED = frozenset(
    (
        *("torch", "dtype", "storage", "scratch", "full", "first", "last", "begin", "end", "first_row", "block", "loop_block", "places"),
        *("scratch_of", "chunks", "block_of", "tiles", "loop_tiles", "slice_of", "positions", "gather", "matrix", "dot", "add_dot", "run"),
        *("bits", "lowest", "keep", "exp_scaled", "rounded", "number", "power", "scatter", "scatter_keys"),
        *("slice", "range", "int", "float", "bool", "min", "max", "abs", "len"),
        *LIBRARY,
    )
)
_PREFIXES = ("every_", "at_", "size_", "pos_", "offs_", "len_", "tiles_", "keys_")
_SUFFIXES = ("_words", "_lowest")


def python_name(name: str) -> str:
    """A name in the text: out of the way of those that the text has for itself, which begin with at_, size_, pos_, offs_ and len_."""
    derived = name.startswith(_PREFIXES) or name.endswith(_SUFFIXES) or "_matrix" in name
    taken = name in _RESERVED or derived or keyword.iskeyword(name)
    return f"{name}_" if taken else name


class Text:
    """The text so far, and what its values are."""

    def __init__(self, program: TileProgram, half: bool) -> None:
        self.program, self.half = program, half
        self.loop: Loop | None = program.loop
        self.axis = program.loop.axis if program.loop is not None else ""
        self.heads = (*program.grid, *program.summed)
        self.numbers = {item.name for item in program.params if item.number}
        self.params = {item.name: item for item in program.params}
        self.values: dict[str, Var] = {}
        self.lines: list[str] = []
        self.depth = 1
        self.dies: dict[str, int] = {}
        self.now = -1
        self.used: set[int] = set()
        self.matrices: dict[tuple[str, tuple[int, ...], int, int], str] = {}
        self.words: dict[tuple[str, float], str] = {}
        self.prepared: set[str] = set()
        self.bases = self.positions_read(self.program.statements)
        self.moving: frozenset[str] = frozenset()
        self.hoisted: int | None = None

    def base(self, axes: Collection[str], bases: Iterable[tuple[str, bool]]) -> None:
        """The positions of axes whose tile is known, as far as they are read."""
        for axis, relative in bases:
            if axis in axes:
                name = f"offs_{axis}" if relative else f"pos_{axis}"
                self.put(f"{name} = positions({f'slice(0, size_{axis})' if relative else f'at_{axis}'})")

    def put(self, line: str, *, outside: bool = False) -> None:
        """Append a line; `outside`, before the loop that is being written, if one is."""
        if outside and self.hoisted is not None:
            self.lines.insert(self.hoisted, f"{INDENT * (self.depth - 1)}{line}")
            self.hoisted += 1
        else:
            self.lines.append(f"{INDENT * self.depth}{line}")

    def axes_read(self) -> set[str]:
        """Axes that values have or whose lengths or positions are read."""
        found = {axis for item in self.program.statements for axis in getattr(item, "axes", ())}
        found |= {axis for carry in (self.loop.carried if self.loop is not None else ()) for axis in carry.axes}
        return found | {
            node.axis for expr in self.expressions() for node in walk(expr) if isinstance(node, Extent | Index | Offset | Start)
        }

    def expressions(self) -> Iterator[Expr]:
        for item in self.program.statements:
            yield from exprs(item)

    def positions_read(self, statements: Iterable[Statement]) -> dict[tuple[str, bool], None]:
        """Axes whose positions are operands, and whether they are relative to the tile."""
        found: dict[tuple[str, bool], None] = {}
        for item in statements:
            plain = isinstance(item, Load) and all(isinstance(place, Index) for place in item.at)
            for expr in [item.body] if isinstance(item, Let) else item.at if isinstance(item, Load | Scatter) and not plain else ():
                for node in (expr, *(children(expr) if isinstance(expr, Apply) else ())):
                    if isinstance(node, Index | Offset):
                        found[node.axis, isinstance(node, Offset)] = None
        return found

    def cast(self, arg: Var, kind: Kind | None) -> str:
        if kind is None or arg.kind == kind:
            return arg.text
        return f"{arg.text}.{CASTS[kind]}"

    def is_pair(self, axes: Axes) -> bool:
        """Whether a value is a tile of pairs of all heads, the largest there are."""
        return {*self.heads, self.program.parallel, self.axis} <= set(axes)

    def fresh_buffer(self) -> int:
        number = next(i for i in range(len(self.used) + 1) if i not in self.used)
        self.used.add(number)
        return number

    # ---- operands

    def operand(self, expr: Expr) -> Var:
        match expr:
            case Const(value=value, kind=kind):
                return Var(literal(value), (), kind, number=True)
            case Extent(axis=axis):
                return Var(f"len_{axis}", (), "int", number=True)
            case Start(axis=axis):
                return Var(f"at_{axis}.start", (), "int", number=True)
            case Index(axis=axis):
                return Var(f"pos_{axis}", (axis,), "int")
            case Offset(axis=axis):
                return Var(f"offs_{axis}", (axis,), "int")
            case Read() if expr in (FIRST, LAST):
                return Var(expr.tensor, (), "int", number=True)
            case Read(tensor=name, kind=kind) if name in self.numbers:
                return Var(python_name(name), (), kind, number=True)
            case Read(tensor=name):
                return self.values[name]
            case Apply():
                raise InternalError(f"{expr.op} stands inside of another operation in {self.program.role}")

    def aligned(self, var: Var, order: Axes) -> str:
        """A value with the dimensions of a result, so that it broadcasts."""
        if var.number or var.axes == order:
            return var.text
        mine = tuple(axis for axis in order if axis in var.axes)
        text = var.text
        if mine != var.axes:
            text = f"{text}.permute({', '.join(str(var.axes.index(axis)) for axis in mine)})"
        if not mine:
            return text
        index = [":" if axis in mine else "None" for axis in order]
        while index[0] == "None":
            index.pop(0)
        return text if "None" not in index else f"{text}[{', '.join(index)}]"

    def shape(self, axes: Axes) -> str:
        return f"({', '.join(f'size_{axis}' for axis in axes)}{',' if len(axes) == 1 else ''})"

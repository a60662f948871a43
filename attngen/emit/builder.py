"""One kernel being written: its sections and the values known so far.

Statements land in the earliest section in which everything they read is known: before the stream (prologue), at the head of a turn
over a summed grid axis (loop), per streamed tile (tile), or after the last one (epilogue).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from attngen.emit.addressing import Loads, is_head_index
from attngen.emit.dialect import PLAIN, Dialect
from attngen.emit.expression import Layout, Printer, refuse_shape
from attngen.emit.format import WIDTH
from attngen.emit.identifiers import Code, identifier, tensor_name
from attngen.emit.params import CHUNK, Param
from attngen.emit.placement import MASKED, Sections, Shapes, Stage, Value
from attngen.ir.build import const
from attngen.ir.expr import Apply, Expr, Extent, Index, Offset, Read, Start, kind_of
from attngen.ir.traverse import free_axes, walk
from attngen.kernel.partition import Kernel


class Writer:
    """Implements `expression.Values` for one kernel."""

    def __init__(self, kernel: Kernel, shapes: Shapes, full: int | None, dialect: Dialect = PLAIN) -> None:
        self.kernel = kernel
        self.dialect = dialect
        self.shapes = shapes
        self.full = full
        self.printer = Printer(self)
        self.sections = Sections()
        self.stage = Stage.PROLOGUE
        self.partial = False
        self.apart = False  # in a function of its own, where everything is an argument
        self.helpers: set[str] = set()
        self.flags: dict[Code, None] = {}
        self.tiled: dict[str, None] = {}
        self.whole_tiles = "False" if full is None else f"segment == {full}"
        self.parameters: dict[str, Param] = {param.name: param for param in CHUNK if kernel.in_chunks}
        self.lengths: dict[str, None] = {}
        self.dims: dict[str, None] = {}
        self.whole = shapes.whole
        self.wide = {*kernel.features, *self.whole.values()}
        self.addresses: dict[str, Code] = {}
        self.starts: dict[tuple[tuple[str, ...], Stage, bool], Code] = {}
        self.steps: dict[str, Value] = {}
        self.halved: dict[str, tuple[Expr, Expr]] = {}
        self.known: dict[tuple[Expr, bool], Value] = {}
        self.taken: set[str] = {*kernel.grid, *kernel.loops, *(tensor_name(item.name) for item in kernel.inputs if item.by_value)}
        self.inputs = {item.name: item for item in kernel.inputs}
        streamed = () if kernel.streamed is None else (kernel.streamed,)
        self.order = (kernel.resident, *streamed, *kernel.features)
        self.loads = Loads(self)

    # ---- text

    def put(self, line: str, stage: Stage | None = None) -> None:
        """Add a statement to a section (the current one by default)."""
        stage = self.stage if stage is None else stage
        code = Code(line)
        if stage == Stage.TILE:
            self.sections.tile.append((code, MASKED if self.partial else None))
        else:
            sections = {Stage.PROLOGUE: self.sections.prologue, Stage.LOOP: self.sections.loop, Stage.EPILOGUE: self.sections.epilogue}
            sections[stage].append(code)

    @contextmanager
    def only_if(self, flag: str) -> Generator[None]:
        """Statements that are written meanwhile stand under a constant of the kernel; nothing else may use what they find."""
        known, starts, addresses, taken = dict(self.known), dict(self.starts), dict(self.addresses), set(self.taken)
        sections, self.sections = self.sections, Sections()
        yield
        found, self.sections = self.sections, sections
        self.known, self.starts, self.addresses, self.taken = known, starts, addresses, taken
        self.flags[Code(flag)] = None
        plain = ((found.prologue, sections.prologue), (found.loop, sections.loop), (found.epilogue, sections.epilogue))
        for written, section in plain:
            section += [Code(f"if {flag}:"), *(Code(f"    {line}") for line in written)] if written else []
        for walked in dict.fromkeys(walked for _, walked in found.tile):
            where = "" if walked is None or self.full is None else f"segment {'==' if walked == self.full else '!='} {self.full} and "
            sections.tile.append((Code(f"if {where}{flag}:"), None))
            sections.tile += [(Code(f"    {line}"), None) for line, own in found.tile if own == walked]

    def name(self, base: str) -> Code:
        """A name not used in this kernel yet."""
        candidate, count = base, 2
        while candidate in self.taken:
            candidate, count = f"{base}_{count}", count + 1
        self.taken.add(candidate)
        return Code(candidate)

    def fits(self, line: str) -> bool:
        """Whether a statement of the current section stays within 100 columns, however deep its loop lies."""
        return len(line) + (4 if self.stage == Stage.PROLOGUE else 20 if self.partial else 16) <= WIDTH

    def assign(self, name: str, expr: Expr, layout: Layout, stage: Stage) -> Code:
        """`name = expr`, in several statements where one would be too long."""
        previous, self.stage = self.stage, stage
        if kind_of(expr) == "float" and self.printer.is_constant(expr):
            # Triton would keep a named number in fp32.
            expr = Apply("to_float", (expr,))
        text = self.printer.code(expr, layout)
        if not self.fits(f"{name} = {text}") and isinstance(expr, Apply):
            args = tuple(self.shorter(arg, layout) for arg in expr.args)
            text = self.printer.code(Apply(expr.op, args), layout)
        self.put(f"{name} = {text}")
        self.stage = previous
        return Code(name)

    def shorter(self, expr: Expr, layout: Layout) -> Expr:
        """A long part of a long expression, by a name; a part that occurs twice is computed once."""
        own, key = self.layout(expr), (expr, self.partial)
        if not isinstance(expr, Apply) or (own and own != layout):
            return expr
        if key not in self.known and len(self.printer.code(expr, layout)) < 24:
            return expr
        if key not in self.known:
            name, stage = self.name(hint(expr)), self.stage if own else self.stage_of(expr)
            self.assign(name, expr, own, stage)
            self.known[key] = Value(name, own, stage)
        placeholder = Read(self.known[key].code, tuple(Index(axis) for axis in own), kind_of(expr))
        self.known[(placeholder, self.partial)] = self.known[key]
        return placeholder

    def add_up(self, name: str, terms: list[str], stage: Stage, sign: str = "+") -> None:
        """`name = a + b + c`, in several statements where one would be too long."""
        previous, self.stage = self.stage, stage
        line = f"{name} = {terms[0]}"
        for term in terms[1:]:
            if self.fits(f"{line} {sign} {term}"):
                line += f" {sign} {term}"
            else:
                self.put(line)
                line = f"{name} {sign}= {term}"
        self.put(line)
        self.stage = previous

    def start(self, name: str, terms: list[str], stage: Stage) -> Code:
        """The sum of terms by a name: the address of a first element, which the pieces of a tile share."""
        key = (tuple(terms), stage, self.partial)
        if key not in self.starts:
            self.starts[key] = self.name(name)
            self.add_up(self.starts[key], terms, stage)
        return self.starts[key]

    def numbers(self, layout: Layout) -> str:
        """What tells the piece of a tile from the others: "_1" """
        pieces = dict(self.shapes.pieces)
        return "".join(f"_{pieces[self.whole[axis]].index(axis)}" for axis in layout if axis in self.whole)

    # ---- the Values protocol

    def lift(self, text: str, own: Layout, layout: Layout, *, memory: bool) -> str:
        lift = self.dialect.in_memory if memory else self.dialect.lift
        return lift(self, text, own, layout)

    def use(self, helper: str) -> None:
        self.helpers.add(helper)

    def layout(self, expr: Expr) -> Layout:
        axes = free_axes(expr)
        return tuple(axis for axis in self.order if axis in axes)

    def halves(self, position: Expr) -> tuple[Expr, Expr]:
        """A tile starts at a whole number of tiles: written so, half of an index is seen to be the same for two neighbours."""
        if not (isinstance(position, Index) and position.axis in (self.kernel.resident, self.kernel.streamed)):
            return Apply("floordiv", (position, const(2))), Apply("mod", (position, const(2)))
        axis, stage = position.axis, self.stage_of(position)
        if axis not in self.halved:
            start = f"start_{axis}" if axis == self.kernel.streamed else f"first_{axis}"
            half, bit = self.name(f"half_{axis}"), self.name(f"bit_{axis}")
            before, self.partial = self.partial, False
            self.put(f"{half} = {start} // 2 + range_{axis} // 2", stage)
            self.put(f"{bit} = range_{axis} % 2", Stage.PROLOGUE)
            self.partial = before
            # No step has a name with a space.
            parts = Read(f"half {axis}", (position,), "int"), Read(f"bit {axis}", (position,), "int")
            for part, name in zip(parts, (half, bit), strict=True):
                self.steps[part.tensor] = Value(name, (axis,), stage)
            self.halved[axis] = parts
        return self.halved[axis]

    def leaf(self, node: Expr) -> tuple[Code, Layout]:
        match node:
            case Index(axis=axis):
                return (Code(f"offs_{axis}"), (axis,)) if axis in self.order else (identifier(axis), ())
            case Extent(axis=axis):
                return self.length(axis), ()
            case Start(axis=axis):
                return Code(f"{'start' if axis == self.kernel.streamed else 'first'}_{axis}"), ()
            case Offset(axis=axis):
                return Code(f"range_{axis}"), (axis,)
            case Read(tensor=tensor) if tensor in self.steps:
                value = self.steps[tensor]
                return value.code, value.layout
            case Read():
                value = self.loads.load(node)
                return (Code(f"{value.code}.to(ACC)") if value.raw else value.code), value.layout
            case _:
                raise TypeError(node)

    def temporary(self, expr: Expr, layout: Layout) -> Code:
        stage = self.stage_of(expr)
        key = (expr, self.partial and stage == Stage.TILE)
        if key not in self.known:
            if len(layout) > 2:
                raise refuse_shape(expr, layout)
            partial, self.partial = self.partial, self.partial and stage == Stage.TILE
            name = self.name(hint(expr))
            self.assign(name, expr, layout, stage)
            self.partial = partial
            self.known[key] = Value(name, layout, stage)
        return self.known[key].code

    # ---- when things are known

    def stage_of(self, expr: Expr) -> Stage:
        """The earliest section in which everything an expression reads is known."""
        latest = Stage.PROLOGUE
        for node in () if self.apart else walk(expr):
            match node:
                case Index(axis=axis) | Start(axis=axis) if axis == self.kernel.streamed:
                    latest = max(latest, Stage.TILE)
                case Index(axis=axis) if axis in self.kernel.loops:
                    latest = max(latest, Stage.LOOP)
                case Read(tensor=tensor) if tensor in self.steps:
                    latest = max(latest, self.steps[tensor].stage)
                case Read() if (node, self.partial) in self.known:
                    latest = max(latest, self.known[(node, self.partial)].stage)
                case _:
                    pass
        # In the epilogue nothing streams any more: an index of the streamed axis cannot occur there.
        return latest

    def block(self, axis: str) -> str:
        """The length of a tile along an axis."""
        if axis not in self.kernel.features:
            return f"BLOCK_{axis.upper()}"
        self.length(axis)
        if axis in self.whole and axis in self.shapes.padded:
            self.length(self.whole[axis])
        return f"PAD_{axis.upper()}" if axis in self.shapes.padded else f"DIM_{axis.upper()}"

    # ---- parameters

    def is_constexpr(self, axis: str) -> bool:
        return axis in self.wide

    def length(self, axis: str) -> Code:
        if axis in self.wide:
            self.dims[axis] = None
            return Code(f"DIM_{axis.upper()}")
        self.lengths[axis] = None
        return Code(f"len_{axis}")

    def parameter(self, param: Param) -> Code:
        """The name of a run-time parameter, which the kernel has from now on."""
        self.parameters[param.name] = param
        return param.name


def hint(expr: Expr) -> str:
    """A name for a part of an expression, after what it is."""
    if is_head_index(expr):
        return "head"
    if not isinstance(expr, Apply):
        return "value"
    names = {node.tensor for node in walk(expr) if isinstance(node, Read)}
    if len(names) == 1 and expr.op in ("where", "neg", "tanh", "exp", "log"):
        return f"{names.pop()}_{_SUFFIXES.get(expr.op, expr.op)}"
    return _HINTS.get(expr.op, f"{expr.op}_value")


_SUFFIXES = {"where": "safe", "neg": "negated"}
_HINTS = {
    "add": "total",
    "sub": "difference",
    "mul": "product",
    "div": "quotient",
    "safe_div": "quotient",
    "random_bits": "bits",
    "floordiv": "quotient",
    "mod": "remainder",
    "where": "choice",
    "exp": "weight",
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"), "holds"),
    **dict.fromkeys(("to_float", "to_int", "to_bool", "neg"), "value"),
}

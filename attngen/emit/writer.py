"""One kernel being written: its sections, the values known so far, and how tensors are addressed.

Statements land in the earliest section in which everything they read is known: before the stream (prologue), at the head of a turn
over a summed grid axis (loop), per streamed tile (tile), or after the last one (epilogue). Offsets that can pass 2**31 are formed from
64-bit scalars; only offsets inside one tile are 32 bits wide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from attngen.emit.expression import Layout, Printer, refuse_shape
from attngen.emit.layout import WIDTH
from attngen.emit.names import Code, identifier, tensor_name
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes, walk
from attngen.transform.partition import Kernel


class Stage(IntEnum):
    """When a value is known."""

    PROLOGUE = 0
    LOOP = 1
    TILE = 2
    EPILOGUE = 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the text depends on besides the kernel: feature axes whose tile is padded to a power of two, and tensors that this
    module allocates itself (contiguous in their axes, row statistics in the accumulator type)."""

    padded: frozenset[str]
    owned: frozenset[str]


@dataclass(frozen=True, slots=True)
class Value:
    """A named value: its text, its layout and when it is known. `raw` ones are in the storage type."""

    code: Code
    layout: Layout
    stage: Stage
    raw: bool = False


@dataclass
class Sections:
    """Statements collected so far; tile statements carry a flag for "only under masks"."""

    prologue: list[Code] = field(default_factory=list[Code])
    init: list[Code] = field(default_factory=list[Code])
    loop: list[Code] = field(default_factory=list[Code])
    tile: list[tuple[Code, bool]] = field(default_factory=list[tuple[Code, bool]])
    epilogue: list[Code] = field(default_factory=list[Code])
    stores: list[Code] = field(default_factory=list[Code])


class Writer:
    """Implements `expression.Values` for one kernel."""

    def __init__(self, kernel: Kernel, shapes: Shapes, full: int | None) -> None:
        self.kernel = kernel
        self.shapes = shapes
        self.full = full
        self.printer = Printer(self)
        self.sections = Sections()
        self.stage = Stage.PROLOGUE
        self.partial = False
        self.helpers: set[str] = set()
        self.parameters: dict[str, None] = {}
        self.lengths: dict[str, None] = {}
        self.dims: dict[str, None] = {}
        self.steps: dict[str, Value] = {}
        self.known: dict[tuple[Expr, bool], Value] = {}
        self.taken: set[str] = set(kernel.grid) | set(kernel.loops)
        self.inputs = {item.name: item for item in kernel.inputs}
        streamed = () if kernel.streamed is None else (kernel.streamed,)
        self.order = (kernel.resident, *streamed, *kernel.features)

    # ---- text

    def put(self, line: str, stage: Stage | None = None) -> None:
        """Add a statement to a section (the current one by default)."""
        stage = self.stage if stage is None else stage
        code = Code(line)
        if stage == Stage.TILE:
            self.sections.tile.append((code, self.partial))
        else:
            sections = {Stage.PROLOGUE: self.sections.prologue, Stage.LOOP: self.sections.loop, Stage.EPILOGUE: self.sections.epilogue}
            sections[stage].append(code)

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
        text = self.printer.code(expr, layout)
        if not self.fits(f"{name} = {text}") and isinstance(expr, Apply):
            args = tuple(self.shorter(arg, layout) for arg in expr.args)
            text = self.printer.code(Apply(expr.op, args), layout)
        self.put(f"{name} = {text}")
        self.stage = previous
        return Code(name)

    def shorter(self, expr: Expr, layout: Layout) -> Expr:
        """A long part of a long expression, by a name; a part that occurs twice is computed once."""
        own = self.layout(expr)
        if not isinstance(expr, Apply) or (own and own != layout) or len(self.printer.code(expr, layout)) < 24:
            return expr
        key = (expr, self.partial)
        if key not in self.known:
            name = self.name(hint(expr))
            self.assign(name, expr, own, self.stage)
            self.known[key] = Value(name, own, self.stage)
        placeholder = Read(self.known[key].code, tuple(Index(axis) for axis in own), kind_of(expr))
        self.known[(placeholder, self.partial)] = self.known[key]
        return placeholder

    def add_up(self, name: str, terms: list[str], stage: Stage) -> None:
        """`name = a + b + c`, in several statements where one would be too long."""
        previous, self.stage = self.stage, stage
        line = f"{name} = {terms[0]}"
        for term in terms[1:]:
            if self.fits(f"{line} + {term}"):
                line += f" + {term}"
            else:
                self.put(line)
                line = f"{name} += {term}"
        self.put(line)
        self.stage = previous

    # ---- the Values protocol

    def use(self, helper: str) -> None:
        self.helpers.add(helper)

    def layout(self, expr: Expr) -> Layout:
        axes = free_axes(expr)
        return tuple(axis for axis in self.order if axis in axes)

    def leaf(self, node: Expr) -> tuple[Code, Layout]:
        match node:
            case Index(axis=axis):
                return (Code(f"offs_{axis}"), (axis,)) if axis in self.order else (identifier(axis), ())
            case Extent(axis=axis):
                return self.length(axis), ()
            case Read(tensor=tensor) if tensor in self.steps:
                value = self.steps[tensor]
                return value.code, value.layout
            case Read():
                value = self.load(node)
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
        for node in walk(expr):
            match node:
                case Index(axis=axis) if axis == self.kernel.streamed:
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
        return f"PAD_{axis.upper()}" if axis in self.shapes.padded else f"DIM_{axis.upper()}"

    # ---- parameters

    def length(self, axis: str) -> Code:
        if axis in self.kernel.features:
            self.dims[axis] = None
            return Code(f"DIM_{axis.upper()}")
        self.lengths[axis] = None
        return Code(f"len_{axis}")

    def parameter(self, name: str) -> Code:
        self.parameters[name] = None
        return Code(name)

    # ---- addresses

    def load(self, read: Read) -> Value:
        """The value of an input read, loaded on first use."""
        item = self.inputs.get(read.tensor)
        if item is None or item.by_value:
            return Value(self.parameter(tensor_name(read.tensor)) if item is not None else Code(read.tensor), (), Stage.PROLOGUE)
        stage = self.stage_of(read)
        partial = self.partial and stage == Stage.TILE
        for key in ((read, False), (read, partial)):
            if key in self.known:
                return self.known[key]
        before, self.stage, self.partial = (self.stage, self.partial), stage, partial
        value = self.emit_load(read, stage)
        self.stage, self.partial = before
        self.known[(read, partial)] = value
        return value

    def emit_load(self, read: Read, stage: Stage) -> Value:
        layout = self.layout(read)
        if len(layout) > 2:
            raise refuse_shape(read, layout)
        base = tensor_name(read.tensor)
        item = self.inputs[read.tensor]
        name = self.name(base if item.axes is not None else f"{base}_at")
        pointers, masks, tail = self.address(read, layout, name)
        raw = kind_of(read) == "float" and any(axis in self.kernel.features for axis in layout)
        owned_row = read.tensor in self.shapes.owned and not raw
        cast = ".to(ACC)" if kind_of(read) == "float" and not raw and not owned_row else ""
        mask = " & ".join([*masks, *([tail] if tail is not None else [])])
        if tail is not None and self.full is not None and not self.partial and not masks:
            self.use("load")
            line = f"{name} = load({pointers}, {tail}, segment == {self.full}){cast}"
        else:
            line = f"{name} = tl.load({pointers}{f', mask={mask}, other=0' if mask else ''}){cast}"
        if not self.fits(line):
            self.put(f"{name}_ok = {mask}")
            line = f"{name} = tl.load({pointers}, mask={name}_ok, other=0){cast}"
        shape = f"  # [{', '.join(self.block(axis) for axis in layout)}]" if layout else ""
        self.put(line + shape if self.fits(line + shape) else line)
        return Value(name, layout, stage, raw)

    def address(self, read: Read, layout: Layout, name: str, pointer: str | None = None) -> tuple[str, list[str], str | None]:
        """Pointers of a load, the masks it always needs, and the mask it needs only in the last streamed tile.

        `pointer` replaces the tensor's own, for a gradient that is stored where its value came from; it has strides of its own.
        """
        base: list[str] = []
        here: list[str] = []
        vectors: list[str] = []
        masks: list[str] = []
        tail: str | None = None
        strides = self.strides(read) if pointer is None else self.all_strides(pointer.removesuffix("_out"), len(read.at))
        for position, (at, stride) in enumerate(zip(read.at, strides, strict=True)):
            own = self.layout(at)
            if not (isinstance(at, Index) and at.axis in self.order):
                self.computed(read, position, layout, stride, (here if self.stage_of(at) == Stage.TILE else base, vectors, masks))
                continue
            axis = at.axis
            ok = self.printer.broadcast(f"ok_{axis}", own, layout)
            if axis in self.kernel.features:
                self.length(axis)
                vectors.append(scaled(self.printer.broadcast(f"offs_{axis}", own, layout), stride))
                masks += [ok] if axis in self.shapes.padded else []
                continue
            vectors.append(scaled(self.printer.broadcast(f"range_{axis}", own, layout), stride))
            if axis == self.kernel.streamed:
                here.append(scaled(f"tl.cast(start_{axis}, tl.int64)", stride))
                tail = ok
            else:
                base.append(scaled(f"start_{axis}", stride))
                masks.append(ok)
        if read.tensor in self.shapes.owned:
            base, here = [self.horner(self.inputs[read.tensor].axes or ())], []
        first = pointer or self.parameter(f"{tensor_name(read.tensor)}_ptr")
        terms = self.start(read, name, first, (base, here))
        if not vectors:
            return " + ".join(terms), masks, tail
        if len(terms) > 1:
            start = self.name(f"{name}_start")
            self.add_up(start, terms, self.stage)
            terms = [start]
        pointers = self.name(f"{name}_ptrs")
        self.add_up(pointers, [*terms, *vectors], self.stage)
        return pointers, masks, tail

    def start(self, read: Read, name: str, pointer: str, terms: tuple[list[str], list[str]]) -> list[str]:
        """The address of a tile's first element, as terms. What does not stream is added up before the stream."""
        base, here = terms
        if here and base:
            still = [at for at in read.at if self.stage_of(at) < Stage.TILE]
            outer = self.name(f"{name}_base")
            self.add_up(outer, [pointer, *base], max((self.stage_of(at) for at in still), default=Stage.PROLOGUE))
            return [outer, *here]
        return [pointer, *base, *here]

    def computed(self, read: Read, position: int, layout: Layout, stride: str, into: tuple[list[str], list[str], list[str]]) -> None:
        """One dimension indexed by an expression: guarded unless its range is checked on the host."""
        scalars, vectors, masks = into
        at = read.at[position]
        own = self.layout(at)
        text = self.printer.code(at, own) if isinstance(at, Index | Const) else str(self.temporary(at, own))
        if not is_head_index(at):
            size = self.parameter(f"{tensor_name(read.tensor)}_size_{position}")
            wrapped = self.name(f"{tensor_name(read.tensor)}_i")
            self.put(f"{wrapped} = tl.where({text} < 0, {text} + {size}, {text})", self.stage_of(at))
            text = wrapped
            masks.append(self.printer.broadcast(f"({text} >= 0)", own, layout))
            masks.append(self.printer.broadcast(f"({text} < {size})", own, layout))
        wide = text if is_head_index(at) else f"tl.cast({text}, tl.int64)"
        (vectors if own else scalars).append(scaled(self.printer.broadcast(wide, own, layout), stride))

    def strides(self, read: Read) -> list[str]:
        """Stride of each dimension: a parameter, or for an owned tensor the part that a tile spans."""
        item = self.inputs[read.tensor]
        name = tensor_name(read.tensor)
        if read.tensor in self.shapes.owned and item.axes is not None:
            return self.contiguous(item.axes)
        if item.axes is None:
            return self.all_strides(name, item.rank)
        last = len(item.axes) - 1
        inner = [axis if i == last and axis in self.kernel.features else None for i, axis in enumerate(item.axes)]
        return ["1" if axis == feature else self.parameter(f"{name}_stride_{axis}") for axis, feature in zip(item.axes, inner, strict=True)]

    def all_strides(self, name: str, rank: int) -> list[str]:
        return [self.parameter(f"{name}_stride_{position}") for position in range(rank)]

    def contiguous(self, axes: tuple[str, ...]) -> list[str]:
        """Strides of the tile axes of an owned tensor; its grid part is one offset (`owned_offset`)."""
        strides: list[str] = []
        for i, _ in enumerate(axes):
            strides.append(" * ".join(self.length(axis) for axis in axes[i + 1 :]) or "1")
        return strides

    def horner(self, axes: tuple[str, ...]) -> str:
        text, simple = "", True
        for axis in axes:
            if axis in self.kernel.features:
                if text:
                    text = f"{text if simple else f'({text})'} * {self.length(axis)}"
                continue
            if axis == self.kernel.streamed:
                here = f"tl.cast(start_{axis}, tl.int64)"
            else:
                here = f"start_{axis}" if axis == self.kernel.resident else str(identifier(axis))
            if text:
                text, simple = f"{text if simple else f'({text})'} * {self.length(axis)} + {here}", False
            else:
                text = here
        return text


def hint(expr: Expr) -> str:
    """A name for a part of an expression, after what it is."""
    if is_head_index(expr):
        return "head"
    return _HINTS.get(expr.op, f"{expr.op}_value") if isinstance(expr, Apply) else "value"


_HINTS = {
    "add": "total",
    "sub": "difference",
    "mul": "product",
    "div": "quotient",
    "safe_div": "quotient",
    "floordiv": "quotient",
    "mod": "remainder",
    "where": "choice",
    "exp": "weight",
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"), "holds"),
    **dict.fromkeys(("to_float", "to_int", "to_bool", "neg"), "value"),
}


def scaled(text: str, stride: str) -> str:
    """An offset times its stride."""
    return text if stride == "1" else f"{text} * {stride}"


def is_head_index(expr: Expr) -> bool:
    """A plain grid index, or the composite of two: its range is the extent that the host checks."""
    match expr:
        case Index():
            return True
        case Apply(op="add", args=(Apply(op="mul", args=(Index(), Extent(axis=inner))), Index(axis=axis))):
            return inner == axis
        case _:
            return False

"""How a kernel reads its inputs: addresses, masks and loads, each on first use and as early as it can be.

Offsets that can pass 2**31 are formed from 64-bit scalars; only offsets inside one tile are 32 bits wide. A position computed from data
is wrapped like an index of PyTorch and guarded; plain ones are checked on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attngen.emit.dialect import Rows
from attngen.emit.expression import Layout, refuse_shape
from attngen.emit.identifiers import Code, identifier, tensor_name
from attngen.emit.params import Param, number, pointer, size, stride
from attngen.emit.placement import Stage, Value
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, Start, kind_of
from attngen.kernel.dense_rows import is_matrix, looped_axes

if TYPE_CHECKING:
    from attngen.emit.builder import Writer


_LONG = 128


class Loads:
    """Loads of one kernel; `clear` is told of each, `end` tells how many rows of a matrix count."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.clear: Callable[[Read, Value], None] | None = None
        self.end: Callable[[Read], Code | None] | None = None

    def load(self, read: Read) -> Value:
        """The value of an input read, loaded on first use."""
        item = self.writer.inputs.get(read.tensor)
        if item is None or item.by_value:
            name = tensor_name(read.tensor)
            return Value(self.writer.parameter(number(name)) if item is not None else Code(read.tensor), (), Stage.PROLOGUE)
        stage = self.writer.stage_of(read)
        partial = self.writer.partial and stage == Stage.TILE
        for key in ((read, False), (read, partial)):
            if key in self.writer.known:
                return self.writer.known[key]
        before, self.writer.stage, self.writer.partial = (self.writer.stage, self.writer.partial), stage, partial
        value = self.emit_load(read, stage)
        self.writer.known[(read, partial)] = value
        if self.clear is not None:
            self.clear(read, value)
        self.writer.stage, self.writer.partial = before
        return value

    def emit_load(self, read: Read, stage: Stage) -> Value:
        layout = self.writer.layout(read)
        if len(layout) > 2 and not self.writer.kernel.combines_splits:
            raise refuse_shape(read, layout)
        if stage == Stage.TILE and read.tensor not in self.writer.shapes.owned and is_matrix(read, self.writer.kernel):
            return self.fetch(read, layout)
        if stage == Stage.TILE and self.is_vector(read):
            return self.fetch_vector(read, layout)
        base = tensor_name(read.tensor) + self.writer.numbers(layout)
        item = self.writer.inputs[read.tensor]
        name = self.writer.name(base if item.axes is not None else f"{base}_at")
        pointers, masks, tail = self.address(read, layout, name)
        state = read.tensor in self.writer.shapes.states
        raw = kind_of(read) == "float" and any(axis in self.writer.kernel.features for axis in layout) and not state
        owned_row = (state or read.tensor in self.writer.shapes.owned) and not raw
        cast = ".to(ACC)" if kind_of(read) == "float" and not raw and not owned_row else ""
        terms = [*masks, *([tail] if tail is not None else [])]
        alone = "".join(terms) if len(terms) < 2 else ""
        mask = alone[1:-1] if alone.startswith("(") else " & ".join(terms)
        if tail is not None and self.writer.full is not None and not self.writer.partial and not masks:
            self.writer.use("load")
            text = f"load({pointers}, {tail}, {self.writer.whole_tiles})"
        else:
            text = f"tl.load({pointers}{f', mask={mask}, other=0' if mask else ''})"
        line = self.loaded(read, name, text, layout) + cast
        if not self.writer.fits(line):
            ok = self.writer.name(f"{name}_ok")
            self.writer.add_up(ok, terms, self.writer.stage, "&")
            line = self.loaded(read, name, f"tl.load({pointers}, mask={ok}, other=0)", layout) + cast
        shape = f"  # [{', '.join(self.writer.block(axis) for axis in layout)}]" if layout else ""
        self.writer.put(line + shape if self.writer.fits(line + shape) else line)
        return Value(name, layout, stage, raw)

    def loaded(self, read: Read, name: str, text: str, layout: Layout) -> str:
        """An assignment of what was loaded; integers may be narrow in memory."""
        text = self.writer.dialect.loaded(text, layout)
        if kind_of(read) == "int" and not self.is_of_runs(read):
            self.writer.use("integer")
            text = f"integer({text})"
        return f"{name} = {text}"

    def fetch(self, read: Read, layout: Layout) -> Value:
        """A tile of such a matrix, whose descriptor, if it has one, is made before the stream."""
        writer, (rows, columns) = self.writer, layout
        stem = tensor_name(read.tensor)
        name = writer.name(stem + writer.numbers(layout))
        turn = "".join(looped_axes(read, writer.kernel))
        base: list[str] = []
        for position, (at, step) in enumerate(zip(read.at, self.strides(read), strict=True)):
            if at not in (Index(rows), Index(columns), Index(turn)):
                self.computed(read, position, layout, step, (base, [], []))
        first = writer.start(f"{stem}_base", [writer.parameter(pointer(stem)), *base], Stage.PROLOGUE)
        before = writer.shapes.before(columns)
        width = " - ".join((writer.length(writer.whole.get(columns, columns)), *before))
        down, step = self.stride_along(read, rows), self.stride_along(read, turn) if turn else ""
        end = self.end(read) if self.end is not None else None
        matrix = Rows(
            name=writer.name(f"{name}_rows"),
            tile=name,
            first=" + ".join((first, *before)),
            length=end or writer.length(rows),
            stride=down,
            width=width,
            start=f"start_{rows}",
            blocks=(writer.block(rows), writer.block(columns)),
            heads=(writer.length(turn), step) if turn else (),
            head=(identifier(turn), step) if turn else (),
        )
        writer.put(f"{matrix.name} = {writer.dialect.matrix(writer, matrix)}", Stage.PROLOGUE)
        ok = [f"ok_{columns}[None, :]"] if columns in writer.shapes.padded else []
        full = "False" if writer.partial or ok else writer.whole_tiles
        mask = " & ".join((*ok, f"ok_{rows}[:, None]" if end is None else f"(offs_{rows} < {end})[:, None]"))
        writer.put(f"{name} = {writer.dialect.fetch(writer, matrix, mask, full)}")
        writer.tiled[stem] = None
        return Value(name, layout, Stage.TILE, raw=True, tiled=True)

    def is_vector(self, read: Read) -> bool:
        """Whether a read takes what the host has found about documents as it streams, whose rows start where a descriptor may."""
        writer, before = self.writer, read.at[:-1]
        known = all(is_head_index(at) and writer.stage_of(at) == Stage.PROLOGUE for at in before)
        return writer.dialect.vectors and self.is_of_runs(read) and known and read.at[-1] == Index(writer.kernel.streamed or "")

    def is_of_runs(self, read: Read) -> bool:
        """Whether it is of a tensor that the host has found about documents, which is contiguous in its last dimension."""
        return any(read.tensor in runs.names for runs in self.writer.kernel.document_extents)

    def fetch_vector(self, read: Read, layout: Layout) -> Value:
        """A tile of such a vector, whose descriptor is made before the stream."""
        writer, (axis,), stem = self.writer, layout, tensor_name(read.tensor)
        name, base = writer.name(f"{stem}_at"), list[str]()
        for position, step in enumerate(self.strides(read)[:-1]):
            self.computed(read, position, layout, step, (base, [], []))
        start = writer.parameter(pointer(stem))
        first = writer.start(f"{stem}_base", [start, *base], Stage.PROLOGUE) if base else start
        whole, block = writer.name(f"{stem}_tiles"), writer.block(axis)
        # By pointers each thread copies every number that it compares; in a short tile that is less than to wait for the descriptor's copy.
        if "LONG" not in writer.taken:
            writer.put(f"{writer.name('LONG')}: tl.constexpr = TMA and {block} >= {_LONG}  # vectors by descriptors", Stage.PROLOGUE)
        writer.put(f"{whole} = tiled_vector({first}, {writer.length(axis)}, {block}, LONG)", Stage.PROLOGUE)
        writer.put(f"{name} = fetch_vector({whole}, start_{axis}, ok_{axis}, {block}, LONG)")
        writer.helpers |= {"tiled_vector", "fetch_vector"}
        writer.tiled[stem] = None
        return Value(name, layout, Stage.TILE)

    def address(self, read: Read, layout: Layout, name: str, into: Param | None = None) -> tuple[str, list[str], str | None]:
        """Pointers of a load, the masks it always needs, and the mask it needs only in the last streamed tile.

        `into` replaces the tensor, for a gradient that is stored where its value came from; it has strides of its own.
        """
        base: list[str] = []
        here: list[str] = []
        vectors: list[str] = []
        masks: list[str] = []
        tail: str | None = None
        strides = self.strides(read) if into is None else self.all_strides(Code(into.tensor), len(read.at))
        for position, (at, step) in enumerate(zip(read.at, strides, strict=True)):
            own = self.writer.layout(at)
            if isinstance(at, Start):
                (here if at.axis == self.writer.kernel.streamed else base).append(scaled(self.first(at.axis), step))
                continue
            if not (isinstance(at, Index) and at.axis in self.writer.order):
                self.computed(read, position, layout, step, (here if self.writer.stage_of(at) == Stage.TILE else base, vectors, masks))
                continue
            axis = at.axis
            ok = self.lifted(f"ok_{axis}", own, layout)
            if axis in self.writer.kernel.features:
                self.writer.block(axis)
                vectors.append(scaled(self.lifted(f"offs_{axis}", own, layout), step))
                masks += [ok] if axis in self.writer.shapes.padded else []
                continue
            vectors.append(scaled(self.lifted(f"range_{axis}", own, layout), step))
            if axis == self.writer.kernel.streamed:
                here.append(scaled(self.first(axis), step))
                tail = ok
            else:
                base.append(scaled(self.first(axis), step))
                masks.append(ok)
        if read.tensor in self.writer.shapes.owned:
            # A sum at the top stands as two terms, which fit a line where one would not.
            text = self.horner(self.writer.inputs[read.tensor].axes or ())
            base, here = text.rsplit(" + ", 1) if " + " in text and text.endswith("tl.int64)") else [text], []
        first = self.writer.parameter(into or pointer(tensor_name(read.tensor)))
        terms = self.start(read, name.removesuffix(self.writer.numbers(layout)), first, (base, here))
        if not vectors:
            text = " + ".join(terms)
            if not self.writer.fits(f"{name} = tl.load({text}, mask={name}_ok, other=0).to(ACC)"):
                text = self.writer.name(f"{name}_address")
                self.writer.add_up(text, terms, self.writer.stage)
            return text, masks, tail
        if len(terms) > 1:
            terms = [self.writer.start(f"{name.removesuffix(self.writer.numbers(layout))}_start", terms, self.writer.stage)]
        pointers = self.writer.name(f"{name}_ptrs")
        self.writer.add_up(pointers, [*terms, *vectors], self.writer.stage)
        return pointers, masks, tail

    def lifted(self, text: str, own: Layout, layout: Layout) -> str:
        """A value in a tile of addresses."""
        return self.writer.printer.broadcast(text, own, layout, memory=True)

    def first(self, axis: str) -> str:
        """The first position of a tile, 64 bits wide."""
        return f"tl.cast(start_{axis}, tl.int64)" if axis == self.writer.kernel.streamed else f"start_{axis}"

    def start(self, read: Read, name: str, first: str, terms: tuple[list[str], list[str]]) -> list[str]:
        """The address of a tile's first element, as terms. What does not stream is added up before the stream."""
        base, here = terms
        if here and base:
            still = [at for at in read.at if self.writer.stage_of(at) < Stage.TILE]
            stage = max((self.writer.stage_of(at) for at in still), default=Stage.PROLOGUE)
            return [self.writer.start(f"{name}_base", [first, *base], stage), *here]
        return [first, *base, *here]

    def computed(
        self, read: Read, position: int, layout: Layout, step: str, into: tuple[list[str], list[str], list[str]], dtype: str = "tl.int64"
    ) -> None:
        """One dimension indexed by an expression: guarded unless its range is checked on the host. `dtype` is wide enough for offsets."""
        scalars, vectors, masks = into
        at = read.at[position]
        own = self.writer.layout(at)
        checked = not own and is_head_index(at)
        text = self.writer.printer.code(at, own) if isinstance(at, Index | Const) else str(self.writer.temporary(at, own))
        limit = size(tensor_name(read.tensor), position)
        if isinstance(at, Const) and at.value >= 0:
            masks.append(f"({text} < {self.writer.parameter(limit)})")
        elif not checked:
            end = self.writer.parameter(limit)
            wrapped = self.writer.name(f"{tensor_name(read.tensor)}_i")
            self.writer.put(f"{wrapped} = tl.where({text} < 0, {text} + {end}, {text})", self.writer.stage_of(at))
            text = wrapped
            masks.append(self.lifted(f"({text} >= 0)", own, layout))
            masks.append(self.lifted(f"({text} < {end})", own, layout))
        wide = text if checked or isinstance(at, Const) else f"tl.cast({text}, {dtype})"
        (vectors if own else scalars).append(scaled(self.lifted(wide, own, layout), step))

    def strides(self, read: Read) -> list[str]:
        """Stride of each dimension: a parameter, or for an owned tensor the part that a tile spans."""
        item = self.writer.inputs[read.tensor]
        name = tensor_name(read.tensor)
        if read.tensor in self.writer.shapes.owned and item.axes is not None:
            return self.contiguous(item.axes)
        if item.axes is None:
            # What the host has found about documents is contiguous.
            return [*self.all_strides(name, item.rank - 1), "1"] if self.is_of_runs(read) else self.all_strides(name, item.rank)
        last = item.axes[-1] if item.axes and item.axes[-1] in self.writer.wide else None
        return ["1" if axis == last else self.writer.parameter(stride(name, dim, axis)) for dim, axis in enumerate(item.axes)]

    def stride_along(self, read: Read, axis: str) -> Code:
        """The stride of an argument along an axis that indexes it."""
        return self.writer.parameter(stride(tensor_name(read.tensor), read.at.index(Index(axis)), axis))

    def all_strides(self, name: Code, rank: int) -> list[str]:
        return [self.writer.parameter(stride(name, position)) for position in range(rank)]

    def contiguous(self, axes: tuple[str, ...]) -> list[str]:
        """Strides of the tile axes of an owned tensor; its grid part is one offset (`owned_offset`)."""
        strides: list[str] = []
        for i, _ in enumerate(axes):
            strides.append(" * ".join(self.writer.length(axis) for axis in axes[i + 1 :]) or "1")
        return strides

    def horner(self, axes: tuple[str, ...]) -> str:
        """The place of the first element of a tile among those of a tensor with these axes. That of a program among the others is known by
        one number, if it owns a tile in each of them: the axes would live on in registers until results are stored."""
        text, simple = "", True
        grid = self.writer.kernel.grid
        if len(grid) > 1 and axes[: len(grid)] == grid:
            text, axes = "tl.cast(outer, tl.int64)", axes[len(grid) :]
        for axis in axes:
            if axis in self.writer.wide:
                if text:
                    text = f"{text if simple else f'({text})'} * {self.writer.length(axis)}"
                continue
            here = self.first(axis) if axis in self.writer.order else str(identifier(axis))
            if text:
                text, simple = f"{text if simple else f'({text})'} * {self.writer.length(axis)} + {here}", False
            else:
                text = here
        return text


def scaled(text: str, stride: str) -> str:
    """An offset times its stride."""
    return text if stride == "1" else f"{text} * {stride}"


def is_head_index(expr: Expr) -> bool:
    """A plain index, or the composite of two. Over axes of the grid its range is the extent that the host checks."""
    match expr:
        case Index():
            return True
        case Apply(op="add", args=(Apply(op="mul", args=(Index(), Extent(axis=inner))), Index(axis=axis))):
            return inner == axis
        case _:
            return False

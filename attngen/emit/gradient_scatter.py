"""Tiles of gradients by pairs, stored as the stream goes along: in the gradient itself, or in a buffer with the positions they belong to.

A kernel that sums tiles stores them in the last turn over the summed axes. A buffer holds a chunk of rows and is the host's business, as
are its strides: with a row stride that is one less than the rows are long, diagonals become columns.
"""

from __future__ import annotations

from attngen.emit.addressing import scaled
from attngen.emit.builder import Writer
from attngen.emit.chunks import buffers_of
from attngen.emit.identifiers import Code, identifier, tensor_name
from attngen.emit.lower import Lowering
from attngen.emit.params import Param, result, size, stride
from attngen.emit.placement import Stage
from attngen.ir import build
from attngen.ir.expr import Index, Read
from attngen.kernel.partition import Kernel
from attngen.kernel.scatter import Scatter


def store_tiles(lowering: Lowering) -> None:
    """Write the statements that store tiles, at the end of a turn of the stream."""
    kernel, writer = lowering.kernel, lowering.writer
    values = [(item, _value(lowering, item)) for item in kernel.scatters]
    before = writer.stage, writer.partial, writer.sections.tile
    writer.stage, writer.partial = Stage.TILE, False
    if kernel.sums_tiles:
        writer.sections.tile = []
    for item, value in values:
        _Store(lowering, item).write(value)
    if kernel.sums_tiles:
        last = " & ".join(f"({identifier(axis)} == {writer.length(axis)} - 1)" for axis in kernel.loops)
        inside = [(Code(f"    {line}"), walked) for line, walked in writer.sections.tile]
        head = Code(f"if {last}:" if len(kernel.loops) > 1 else f"if {last[1:-1]}:")
        writer.sections.tile = [*before[2], (head, None), *inside]
    writer.stage, writer.partial = before[:2]


def _value(lowering: Lowering, item: Scatter) -> str:
    """The finished tile; a sum holds nothing where nothing exists."""
    step, code = lowering.by_name[item.step], str(lowering.writer.steps[item.step].code)
    return code if step.reduce is not None else lowering.selected(step, build.read(step.name, step.axes), code)


class _Store:
    """The statements for one destination."""

    def __init__(self, lowering: Lowering, item: Scatter) -> None:
        self.kernel: Kernel = lowering.kernel
        self.writer: Writer = lowering.writer
        self.item, self.pair = item, lowering.pair
        self.writer.inputs.setdefault(item.target.name, item.target)
        # Padding has no position of its own, but a computed one may point into the tensor; a weight there can be infinite.
        self.inside = [self.writer.printer.broadcast(f"ok_{axis}", (axis,), self.pair) for axis in self.pair]

    def write(self, value: str) -> None:
        if self.item.form == "stored":
            self.elements(value)
        else:
            self.buffers(value)

    def elements(self, value: str) -> None:
        mine = result(tensor_name(self.item.step))
        name = self.writer.name(f"{tensor_name(self.item.step)}_to")
        pointers, masks, tail = self.writer.loads.address(Read(self.item.target.name, self.item.at), self.pair, name, mine)
        every: list[str] = [*masks, *([tail] if tail else []), *self.inside]
        self.store(pointers, f"{value}.to({mine.name}.dtype.element_ty)", self.mask(name, every))

    def buffers(self, value: str) -> None:
        tiles, keys = buffers_of(self.item)
        key, valid = self.key(f"{self.writer.parameter(keys)}.dtype.element_ty")
        axes = tuple(axis for axis in self.kernel.axes(self.item.step) if axis not in self.pair)
        mask = self.mask(tiles.tensor, [*valid, *self.inside])
        self.store(self.pointers(tiles, axes), value, mask)
        # Heads that ride along share their positions: the first one tells them.
        rest = self.item.column_axes
        first = [f"({identifier(axis)} == 0)" for axis in rest]
        pointers = self.pointers(keys, tuple(axis for axis in axes if axis not in rest))
        self.store(pointers, key, " & ".join([mask, *first]))

    def key(self, dtype: str) -> tuple[str, list[str]]:
        """The position within the dimensions that are keys as one number, and where it lies in the tensor."""
        writer, target, at = self.writer, self.item.target, self.item.at
        scalars: list[str] = []
        vectors: list[str] = []
        valid: list[str] = []
        for place, i in enumerate(self.item.keys):
            sizes = [str(writer.parameter(size(tensor_name(target.name), j))) for j in self.item.keys[place + 1 :]]
            step = " * ".join(sizes) or "1"
            expr = at[i]
            if isinstance(expr, Index) and expr.axis in self.pair:
                wide = f"tl.cast(offs_{expr.axis}, {dtype})"
                vectors.append(scaled(writer.printer.broadcast(wide, (expr.axis,), self.pair), step))
            else:
                writer.loads.computed(Read(target.name, at), i, self.pair, step, (scalars, vectors, valid), dtype)
        name = writer.name(f"{tensor_name(self.item.step)}_key")
        writer.add_up(name, [*scalars, *vectors], Stage.TILE)
        return name, valid

    def pointers(self, buffer: Param, axes: tuple[str, ...]) -> str:
        """Addresses in a buffer with these axes of the grid, then the rows of the chunk, then the stream without gaps."""
        writer, (resident, streamed) = self.writer, self.pair
        name = Code(buffer.tensor)
        strides = {axis: str(writer.parameter(stride(name, dim, axis, buffer.memory))) for dim, axis in enumerate((*axes, resident))}
        row = f"tl.cast(first_{resident} - chunk_begin, tl.int64) * {strides[resident]}"
        base, start = writer.name(f"{name}_base"), writer.name(f"{name}_ptrs")
        terms = [str(writer.parameter(buffer)), *(f"{identifier(axis)} * {strides[axis]}" for axis in axes), row]
        writer.add_up(base, terms, Stage.PROLOGUE)
        rows = f"range_{resident}[:, None] * {strides[resident]}"
        writer.add_up(start, [base, f"start_{streamed}", rows, f"range_{streamed}[None, :]"], Stage.TILE)
        return start

    def mask(self, name: str, every: list[str]) -> str:
        terms = list(dict.fromkeys(every))
        if len(terms) <= 2:
            return " & ".join(terms)
        mask = self.writer.name(f"{name}_ok")
        self.writer.add_up(mask, terms, Stage.TILE, "&")
        return mask

    def store(self, pointers: str, value: str, mask: str) -> None:
        self.writer.put(f"tl.store({pointers}, {value}, mask={mask})", Stage.TILE)

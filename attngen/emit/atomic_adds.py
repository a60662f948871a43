"""Sums over the axis that stays: each turn forms what its tile holds of them, and adds it to memory.

    sum[R] A[R,S] * B[R,f]      a product with the tile transposed, tl.dot(tl.trans(A), B), [S, f]
    sum[R] A[R,S]               a sum over its first axis, [S]

Other programs add to the same elements, in any order. Memory is in the accumulator type and begins at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attngen.emit.addressing import scaled
from attngen.emit.builder import Writer
from attngen.emit.identifiers import tensor_name
from attngen.emit.params import result
from attngen.emit.placement import Stage, Value
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Read

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


def form_part(lowering: Lowering, step: Einsum) -> None:
    """What a tile holds of one sum. Positions behind the last one that stays count for nothing (`Lowering.mask`)."""
    writer, resident = lowering.writer, lowering.pair[0]
    layout = tuple(axis for axis in writer.order if axis in step.axes)
    name = writer.name(tensor_name(step.name))
    if len(layout) == 2:
        left, right = lowering.sums.sides(step, lowering.pair, (resident, layout[1]))
        tile = lowering.selected(step, left, name.removesuffix(writer.numbers(layout)))
        other = lowering.summed_operand(step, right, (resident, layout[1]))
        writer.put(f'{name} = tl.dot(tl.trans({tile}.to(DTYPE)), {other}, input_precision="ieee", out_dtype=ACC)', Stage.TILE)
    else:
        tile = lowering.selected(step, step.body, name)
        writer.put(f"{name} = tl.sum({tile}, 0)", Stage.TILE)
    writer.steps[step.name] = Value(name, layout, Stage.TILE)


def add_parts(lowering: Lowering, name: str, axes: tuple[str, ...], parts: tuple[Read, ...]) -> None:
    """The statements that add to one output at the end of a turn.

    Args:
        lowering: of the kernel, with all its steps written.
        name: of the output. axes: its own.
        parts: the pieces that make it up.
    """
    writer = lowering.writer
    before, writer.stage = writer.stage, Stage.TILE
    for part in parts:
        _add(writer, name, axes, part)
    writer.stage = before


def _add(writer: Writer, name: str, axes: tuple[str, ...], part: Read) -> None:
    value, streamed = writer.steps[part.tensor], writer.kernel.streamed or ""
    stride = " * ".join(writer.length(axis) for axis in axes[axes.index(streamed) + 1 :]) or "1"
    layout = value.layout
    vectors = [scaled(writer.printer.broadcast(f"range_{streamed}", (streamed,), layout), stride)]
    masks: list[str] = []
    for axis in layout[1:]:
        writer.block(axis)
        vectors.append(writer.printer.broadcast(f"offs_{axis}", (axis,), layout))
        if axis in writer.shapes.padded:
            masks.append(writer.printer.broadcast(f"ok_{axis}", (axis,), layout))
    heads, rows = writer.loads.horner(axes[: axes.index(streamed)]), [str(writer.length(streamed)), *([stride] if stride != "1" else [])]
    terms = [str(writer.parameter(result(tensor_name(name))))]
    if heads:
        terms.append(" * ".join((heads if heads.isidentifier() else f"({heads})", *rows)))
    terms.append(scaled(writer.loads.first(streamed), stride))
    start = writer.start(f"{tensor_name(name)}_start", terms, Stage.TILE)
    pointers = writer.name(f"{value.code}_ptrs")
    writer.add_up(pointers, [start, *vectors], Stage.TILE)
    full = "False" if masks else writer.whole_tiles
    masks.append(writer.printer.broadcast(f"ok_{streamed}", (streamed,), layout))
    writer.use("add")
    writer.put(f"add({pointers}, {value.code}, {' & '.join(masks)}, {full})", Stage.TILE)

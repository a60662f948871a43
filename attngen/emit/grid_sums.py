"""Tiles that are summed over axes of the grid, turn by turn, before the stream goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.placement import Stage, Value
from attngen.ir.cascade import Einsum

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


def add_total(lowering: Lowering, step: Einsum) -> None:
    """The statements of one sum; with the first turn at each tile of the stream it starts anew."""
    writer, loops = lowering.writer, lowering.kernel.loops
    name = writer.name(tensor_name(step.name))
    shape = ", ".join(writer.block(axis) for axis in lowering.pair)
    writer.sections.init.append(Code(f"{name} = tl.zeros(({shape}), ACC)"))
    tile = lowering.selected(step, step.body, name)
    first = " & ".join(f"({axis} == 0)" for axis in loops)
    writer.put(f"{name} = tl.where({first if len(loops) > 1 else first[1:-1]}, 0.0, {name}) + {tile}", Stage.TILE)
    writer.steps[step.name] = Value(name, lowering.pair, Stage.TILE)

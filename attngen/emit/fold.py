"""Folded biases in a kernel: two narrow operands, made before the stream, and the product that adds them to the scores.

    phi = columns(phi, rounded(slope, 0, DTYPE), 0, 1)        x = tl.dot(phi, tl.trans(psi), s)

Columns that no value fills are zero.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from attngen.emit.expression import Layout, is_number
from attngen.emit.names import Code, tensor_name
from attngen.emit.sections import Stage, Value
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr
from attngen.transform.partition import Fold

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


def add_fold(lowering: Lowering, step: Einsum, fold: Fold) -> None:
    """The step as a product added to a tile."""
    writer = lowering.writer
    name = writer.name(tensor_name(step.name))
    sides = [_operand(lowering, f"{name}_{side}", fold, place) for place, side in enumerate(("phi", "psi"))]
    tile = writer.steps[fold.tile.tensor].code
    line = f'{name} = tl.dot({sides[0]}, tl.trans({sides[1]}), {tile}, input_precision="ieee", out_dtype=ACC)'
    if lowering.ahead.names:
        # The matrix unit is busy with the next tile then, and has no time to lose.
        lines = ["if PIPE:", *(f"    {code}" for code in _added(lowering, step, name)), "else:", f"    {line}"]
    else:
        lines = [line]
    for text in lines:
        writer.put(text, Stage.TILE)
    writer.steps[step.name] = Value(name, lowering.pair, Stage.TILE)


def _added(lowering: Lowering, step: Einsum, name: Code) -> list[Code]:
    """Statements that add the bias element by element."""
    writer = lowering.writer
    known, section, writer.sections.tile = dict(writer.known), writer.sections.tile, []
    writer.assign(name, step.body, lowering.pair, Stage.TILE)
    lines = [code for code, _ in writer.sections.tile]
    writer.known, writer.sections.tile = known, section
    return lines


def _operand(lowering: Lowering, base: str, fold: Fold, place: int) -> Code:
    """One side of the product: [positions, columns]."""
    writer, axis = lowering.writer, lowering.pair[place]
    name = writer.name(base)
    before, writer.stage = writer.stage, Stage.PROLOGUE
    writer.put(f"{name} = tl.zeros(({writer.block(axis)}, {fold.width}), DTYPE)")
    writer.use("columns")
    writer.use("rounded")
    first = 0
    for (value, order), same in groupby(column[place] for column in fold.columns):
        last = first + len(list(same))
        writer.put(f"{name} = columns({name}, rounded({_text(lowering, value, axis)}, {order}, DTYPE), {first}, {last})")
        first = last
    writer.stage = before
    return name


def _text(lowering: Lowering, value: Expr, axis: str) -> str:
    """A value along an axis as a column, any other as a number; long ones by a name."""
    writer, value = lowering.writer, build.apply("to_float", value)
    layout: Layout = writer.layout(value)
    short = writer.printer.code(value, layout)
    if is_number(value):
        # To Triton it is a constant, which has no type to be rounded to.
        return f"tl.full((), {short}, ACC)"
    text = writer.temporary(value, layout) if len(short) > 24 else short
    return writer.printer.broadcast(text, layout, (axis, ""))

"""Folded biases in a kernel: two narrow operands, made before the stream, and the product that adds them to the scores. What differs
between heads that share a kernel is made anew for each, and the stream begins anew as well (`is_nested`).

    phi = columns(phi, rounded(slope, 0, DTYPE), 0, 1)        x = tl.dot(phi, tl.trans(psi), s)

Columns that no value fills are zero. Where the scores go ahead, their bias goes with them, but in a form that cannot add to an accumulator
that is under way (EARLY, see `pipe`): there it is added element by element.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from attngen.emit.expression import Layout, is_number
from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.placement import Stage, Value
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr
from attngen.ir.traverse import free_axes
from attngen.kernel.partition import BiasDot, Kernel

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


def add_bias_dot(lowering: Lowering, step: Einsum, bias_dot: BiasDot) -> None:
    """The step as a product added to a tile."""
    writer = lowering.writer
    name = writer.name(tensor_name(step.name))
    sides = [_operand(lowering, f"{name}_{side}", bias_dot, place) for place, side in enumerate(("phi", "psi"))]
    tile = writer.steps[bias_dot.tile.tensor].code
    line = f"{name} = {writer.dialect.product(writer, (sides[0], sides[1]), str(tile), prefetched=False)}"
    goes_ahead = step.name in lowering.prefetched.names
    for text in [f"{name} = {tile}", "if not EARLY:", f"    {line}"] if goes_ahead else [line]:
        writer.put(text, Stage.TILE)
    writer.steps[step.name] = Value(name, lowering.pair, Stage.TILE)
    if goes_ahead:
        lowering.prefetched.apart += _added(lowering, step, bias_dot, name)


def is_nested(kernel: Kernel) -> bool:
    """Whether operands depend on the turn of a loop around the stream."""
    loops = set(kernel.loops)
    return any(loops & set(free_axes(value)) for bias_dot in kernel.bias_dots for column in bias_dot.columns for value, _ in column)


def _added(lowering: Lowering, step: Einsum, bias_dot: BiasDot, name: Code) -> list[Code]:
    """Statements that add the bias to the tile, which has the name of their sum already, element by element."""
    writer = lowering.writer
    known, section, tile = dict(writer.known), writer.sections.tile, writer.steps[bias_dot.tile.tensor]
    writer.sections.tile, writer.steps[bias_dot.tile.tensor] = [], replace(tile, code=name)
    writer.assign(name, step.body, lowering.pair, Stage.TILE)
    lines = [code for code, _ in writer.sections.tile]
    writer.known, writer.sections.tile, writer.steps[bias_dot.tile.tensor] = known, section, tile
    return lines


def _operand(lowering: Lowering, base: str, bias_dot: BiasDot, place: int) -> Code:
    """One side of the product: [positions, columns]."""
    writer, axis = lowering.writer, lowering.pair[place]
    name = writer.name(base)
    before, writer.stage = writer.stage, max(writer.stage_of(column[place][0]) for column in bias_dot.columns)
    writer.put(f"{name} = tl.zeros(({writer.block(axis)}, {bias_dot.width}), DTYPE)")
    writer.use("columns")
    writer.use("rounded")
    first = 0
    for (value, order), same in groupby(column[place] for column in bias_dot.columns):
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

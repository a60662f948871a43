"""Sums along the stream: what they start from, how they follow the maxima that weights are measured from, and what a turn adds.

    acc = acc * alpha        acc = tl.dot(w.to(DTYPE), v, acc)        l_i = l_i * alpha + tl.sum(w, 1)

An accumulator of features follows as soon as its factors are known, before the weights are formed: what is left behind them then keeps
nothing waiting but the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.emit.dialect import shape_of
from attngen.emit.expression import Layout
from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.placement import Stage, Value
from attngen.errors import UnsupportedError
from attngen.ir import build
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


@dataclass(frozen=True, slots=True)
class Sum:
    """The name of an accumulator and its layout: [rows] or [rows, features]."""

    name: Code
    layout: Layout


class Sums:
    """The accumulators of one kernel."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.started: dict[str, Sum] = {}
        self.followed: set[str] = set()

    def start(self, step: Einsum) -> Sum:
        """The accumulator of a step, 0 before the stream."""
        if step.name not in self.started:
            writer, streamed = self.lowering.writer, self.lowering.kernel.streamed
            name = writer.name(tensor_name(step.name))
            layout = tuple(axis for axis in writer.order if axis in step.axes and axis != streamed)
            nothing = ['float("-inf")'] if step.reduce == "max" else []
            writer.sections.init.append(Code(f"{name} = {writer.dialect.filled(shape_of(writer, layout), layout, *nothing)}"))
            self.started[step.name] = Sum(name, layout)
        return self.started[step.name]

    def follow_early(self) -> None:
        """Take the accumulators of features along whose maxima have all moved; those that need other sums follow after these."""
        online, accumulators = self.lowering.online, self.lowering.accumulators
        for step in self.lowering.kernel.steps:
            item = accumulators.get(step.name)
            if item is None or item.offset_power or not item.weight_power or step.name in self.followed:
                continue
            moved = all(gauge in online.known for gauge, _ in item.weight_power)
            if moved and set(step.axes) & set(self.lowering.kernel.features):
                self.follow(step)

    def follow(self, step: Einsum) -> None:
        """The statement by which an accumulator follows its maxima; what it was, where another sum needs that."""
        if step.name in self.followed:
            return
        self.followed.add(step.name)
        item = self.start(step)
        if step.name in self.lowering.lower:
            self.lowering.writer.put(f"{item.name}_old = {item.name}", Stage.TILE)
        follow = self.lowering.online.follow(step, item.name, item.layout)
        if follow and len(item.layout) == 2:
            self.lowering.writer.put(f"{item.name} = {follow}", Stage.TILE)

    def followed_value(self, step: Einsum) -> str:
        """What a turn adds to: an accumulator of rows follows in the same statement."""
        item = self.start(step)
        return (self.lowering.online.follow(step, item.name, item.layout) if len(item.layout) == 1 else "") or item.name

    def accumulate(self, step: Einsum) -> None:
        """What a turn adds."""
        writer = self.lowering.writer
        resident, streamed = self.lowering.kernel.resident, self.lowering.kernel.streamed or ""
        item = self.start(step)
        name, layout = item.name, item.layout
        if step.reduce == "max":
            self.raise_maximum(step, item)
        elif self.lowering.kernel.combines_splits:
            self.follow(step)
            # What was loaded for parts that do not exist is 0.
            text = writer.printer.code(step.body, tuple(axis for axis in writer.order if axis in (*layout, streamed)))
            writer.put(f"{name} = {self.followed_value(step)} + tl.sum({text}, 1)", Stage.TILE)
        elif len(layout) == 2:
            left, right = self.sides(step, (resident, streamed), (streamed, layout[1]))
            tile = self.lowering.selected(step, left, name.removesuffix(writer.numbers(layout)))
            b = self.lowering.summed_operand(step, right, (streamed, layout[1]))
            self.follow(step)
            previous, writer.stage = writer.stage, Stage.TILE
            writer.put(f"{name} = {writer.dialect.accumulate(writer, (f'{tile}.to(DTYPE)', b), name, layout[1])}")
            writer.stage = previous
        else:
            self.follow(step)
            tile = self.lowering.selected(step, step.body, name)
            writer.put(f"{name} = {self.followed_value(step)} + tl.sum({tile}, 1)", Stage.TILE)
        writer.steps[step.name] = Value(name, layout, Stage.EPILOGUE)

    def raise_maximum(self, step: Einsum, item: Sum) -> None:
        """A maximum after a turn; elements that do not exist are below all others."""
        lowering, writer = self.lowering, self.lowering.writer
        if len(item.layout) != 1:
            raise UnsupportedError(
                f"a maximum over {', '.join(step.over)} of values that vary along features: it is one number a row",
                loc=step.loc,
                remedy="Compute it outside of the call.",
            )
        seen, stage, writer.stage = writer.name(f"{item.name}_seen"), writer.stage, Stage.TILE
        if writer.layout(step.body) == lowering.pair:
            writer.assign(seen, step.body, lowering.pair, Stage.TILE)
        else:
            writer.put(f"{seen} = {lowering.spread(step.body, lowering.pair)}")
        lowering.under_masks(f'{seen} = tl.where({lowering.masks.valid(lowering.exists.get(step.name))}, {seen}, float("-inf"))')
        writer.put(f"{item.name} = tl.maximum({item.name}, {writer.dialect.row_max(seen, lowering.pair)})")
        writer.stage = stage

    def sides(self, step: Einsum, left: Layout, right: Layout) -> tuple[Expr, Expr]:
        """Factors of `sum[S] A[R,S] * B[S,f]`; what carries no feature goes to the left."""
        a: Expr = build.ONE
        b: Expr = build.ONE
        for factor in signed_factors(step.body):
            axes = set(self.lowering.writer.layout(factor))
            if axes <= set(left):
                a = build.mul(a, factor)
            elif axes <= set(right):
                b = build.mul(b, factor)
            else:
                raise self.lowering.not_a_contraction(step, factor)
        return a, b

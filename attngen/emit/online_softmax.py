"""Gauges in a kernel: the running maximum, the weights measured from it, and how sums follow when it moves.

    m_i_new = max(m_i, max(x))        alpha = exp(m_i - m_i_new)        w = exp(x - m_i_new)
    l_i = l_i * alpha + sum(w)        acc = acc * alpha + w @ v

A sum of `w * y` with the offset `y = x - m_i` also gains `delta` times the sum of w, `delta` being how far the maximum moved; higher
powers of y follow the binomial theorem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attngen.emit.expression import Layout
from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.placement import Stage, Value
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Offset, Read, Start
from attngen.ir.traverse import names_read, once_a_node, walk
from attngen.transform.streaming.streaming import Accumulator, Gauge

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


class Online:
    """The gauges of one kernel."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.moved: list[str] = []
        self.known: set[str] = set()

    def suffix(self, gauge: Gauge) -> str:
        return gauge.name.removeprefix("m_i")

    def carry(self, gauge: Gauge) -> None:
        """The running maximum starts at minus infinity, or at the row values it must dominate."""
        writer = self.lowering.writer
        name = writer.name(tensor_name(gauge.name))
        resident = self.lowering.kernel.resident
        start = writer.dialect.filled((f"BLOCK_{resident.upper()}",), (resident,), 'float("-inf")')
        for floor in gauge.floor:
            start = f"tl.maximum({start}, {writer.printer.code(floor, (resident,))})"
        writer.sections.init.append(Code(f"{name} = {start}"))
        writer.steps[gauge.name] = Value(name, (resident,), Stage.EPILOGUE)

    def weight(self, step: Einsum, gauge: Gauge) -> None:
        """`w = exp(x - m_i)` with the maximum moved first; sums follow by `alpha`."""
        writer = self.lowering.writer
        x = self.exponent(gauge)
        name, tail = writer.steps[gauge.name].code, self.suffix(gauge)
        resident, streamed = self.lowering.kernel.resident, self.lowering.kernel.streamed or ""
        valid = self.lowering.masks.valid(self.lowering.exists.get(step.name))
        seen = x
        if self.read_elsewhere(gauge):
            seen = writer.name(f"{x}_seen")
            writer.put(f"{seen} = {x}", Stage.TILE)
        self.lowering.under_masks(f'{seen} = tl.where({valid}, {seen}, float("-inf"))')
        alpha = writer.name(f"alpha{tail}")
        scale = "" if gauge.scale == build.ONE else writer.printer.operand(gauge.scale, (), 11)
        largest = f"tl.max({seen}, 1) * {scale}" if scale else f"tl.max({seen}, 1)"
        shift = "" if gauge.shift == build.ZERO else writer.printer.operand(gauge.shift, (resident,), 10)
        largest = f"{largest} + {shift}" if shift else largest
        writer.put(f"{name}_new = tl.maximum({name}, {largest})", Stage.TILE)
        self.lowering.prefetched.after_maximum()
        self.floor(gauge, name)
        writer.put(f"{alpha} = tl.exp2(({name} - {name}_safe) * LOG2E)", Stage.TILE)
        if gauge.offset is not None:
            writer.put(f'delta{tail} = tl.where({name} == float("-inf"), 0.0, {name} - {name}_safe)', Stage.TILE)
        self.known.add(gauge.name)
        self.lowering.sums.follow_early()
        weight = writer.name(tensor_name(step.name))
        helper = "exp_scaled" if scale else "exp_above"
        writer.use(helper)
        # What an offset gives is not relative to the maximum any more: there the weights must not share a rounding error either.
        precision = "DTYPE" if gauge.offset is None else "ACC"
        exponent = f"{seen}, {scale}" if scale else seen
        floor = f"({name}_safe - {shift})" if shift else f"{name}_safe"
        writer.put(f"{weight} = {helper}({exponent}, {floor}[:, None], {precision})", Stage.TILE)
        writer.steps[step.name] = Value(weight, (resident, streamed), Stage.TILE)
        self.lowering.zeros.known[step.name] = self.lowering.exists.get(step.name)
        self.moved.append(name)
        if gauge.offset is not None:
            self.offset(gauge, x, f"{name}_safe")

    def exponent(self, gauge: Gauge) -> Code:
        """The tile that the maximum is of: a step, or an input where maxima of parts are."""
        writer = self.lowering.writer
        if gauge.exponent in writer.steps:
            return writer.steps[gauge.exponent].code
        return writer.loads.load(build.read(gauge.exponent, self.lowering.kernel.axes(gauge.exponent))).code

    def floor(self, gauge: Gauge, name: Code) -> None:
        """What weights are measured from: the maximum, but where nothing is above it, as in a row that a mask leaves without keys."""
        writer = self.lowering.writer
        line = f"{name}_safe = finite({name}_new, DTYPE)"
        writer.use("finite")
        if writer.full is None or self.falls(build.read(gauge.exponent, ())):
            writer.put(line, Stage.TILE)
        else:
            writer.put(f"{name}_safe = {name}_new", Stage.TILE)
            self.lowering.under_masks(line)

    def falls(self, expr: Expr) -> bool:
        """Whether a value may be -inf, or what stands for it, without a mask: a user's number may be, unless positions multiply it."""

        def may_be(node: Expr, falls: Callable[[Expr], bool]) -> bool:
            match node:
                case Const(value=value):
                    return abs(float(value)) == float("inf")
                case Index() | Extent() | Start() | Offset():
                    return False
                case Read(tensor=name) if name in self.lowering.by_name:
                    step = self.lowering.by_name[name]
                    return not step.over and falls(step.body)
                case Apply(op="mul", args=(a, b)):
                    return (falls(a) and not _has_positions(b)) or (falls(b) and not _has_positions(a))
                case Apply(op="tanh" | "tanh_small" | "sigmoid" | "atan"):
                    return False
                case Apply(op="add" | "sub" | "neg" | "to_float" | "where" | "min" | "max" | "clamp" | "hardtanh", args=args):
                    return any(falls(arg) for arg in args)
                case _:
                    return True

        return once_a_node(may_be)(expr)

    def read_elsewhere(self, gauge: Gauge) -> bool:
        """Whether the exponent is read by anything but its own weight."""
        readers = [step.name for step in self.lowering.kernel.steps if gauge.exponent in names_read(step.body)]
        return any(name != gauge.weight for name in readers)

    def offset(self, gauge: Gauge, x: Code, safe: str) -> None:
        name = self.lowering.writer.name(tensor_name(gauge.offset or ""))
        self.lowering.writer.put(f"{name} = {x} - {safe}[:, None]", Stage.TILE)
        self.lowering.writer.steps[gauge.offset or ""] = Value(name, self.lowering.pair, Stage.TILE)

    def follow(self, step: Einsum, name: str, layout: Layout) -> str:
        """The accumulator after its gauges moved: times alpha for each weight, plus delta times lower sums for each offset."""
        item = self.lowering.accumulators.get(step.name)
        if item is None or not item.weight_power:
            return ""
        value = self.transported(item, name, layout)
        for gauge, power in item.weight_power:
            alpha = self.of_rows(f"alpha{gauge.removeprefix('m_i')}", layout)
            value += f" * {alpha}" * power
        return value

    def of_rows(self, text: str, layout: Layout) -> str:
        """A row value in an accumulator's layout."""
        return self.lowering.writer.printer.broadcast(text, layout[:1], layout)

    def transported(self, item: Accumulator, name: str, layout: Layout) -> str:
        if not item.offset_power:
            return name
        gauge, power = item.offset_power[0]
        delta = self.of_rows(f"delta{gauge.removeprefix('m_i')}", layout)
        terms, lower, binomial = [name], item.lower, 1
        for i in range(1, power + 1):
            binomial = binomial * (power - i + 1) // i
            count = "" if binomial == 1 else f"{float(binomial)} * "
            terms.append(f"{count}{' * '.join([delta] * i)} * {tensor_name(lower or '')}_old")
            lower = self.lowering.accumulators[lower].lower if lower is not None else None
        return f"({' + '.join(terms)})"


def _has_positions(expr: Expr) -> bool:
    return any(isinstance(node, Index | Start | Offset) for node in walk(expr))

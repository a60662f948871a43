"""Gauges in a tile program: the running maximum, the weights measured from it, and how sums follow when it moves.

    m_i_new = max(m_i, max[n] x)      alpha = exp(m_i - m_i_safe)       w = exp(x - m_i_safe)
    l_i_new = l_i * alpha + sum[n] w  acc_new = acc * alpha + w @ v

`m_i_safe` is 0 where nothing is above minus infinity, as in a row without keys. A sum of `w * y` with the offset `y = x - m_i` also gains
`m_shift` times the sum of w, `m_shift` being how far the maximum moved; higher powers of y follow the binomial theorem.
"""

from __future__ import annotations

from math import comb

from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr
from attngen.tile.program_builder import INSIDE, Builder
from attngen.transform.streaming.streaming import Gauge


class Gauges:
    """The gauges of one kernel."""

    def __init__(self, builder: Builder, facts: KernelFacts) -> None:
        self.build, self.facts, self.kernel = builder, facts, facts.kernel
        self.accumulators = {item.name: item for item in facts.kernel.accumulators}
        self.gauges = {gauge.name: gauge for gauge in facts.kernel.gauges}
        self.alphas: dict[str, str] = {}
        self.shifts: dict[str, str] = {}

    def begin(self) -> None:
        """The running maximum starts at minus infinity, or at the row values that it must dominate."""
        steps = {step.name: step for step in self.kernel.steps}
        for gauge in self.kernel.gauges:
            if gauge.weight in steps:
                start: Expr = build.NEG_INF
                for floor in gauge.floor:
                    own = self.build.own(floor)
                    start = own if start == build.NEG_INF else build.apply("max", start, own)
                self.build.carry(gauge.name, steps[gauge.weight].axes, start)

    def weigh(self, step: Einsum, gauge: Gauge) -> None:
        """`w = exp(x - m_i)`, the maximum moved first."""
        make, carry = self.build, self.build.alias[gauge.name]
        guard = self.facts.guards[step.name]
        exponent = make.source(build.read(gauge.exponent, self.kernel.axes(gauge.exponent)))
        x = make.spread(make.let(gauge.exponent, exponent), {self.kernel.streamed or ""})
        valid = "" if guard is None else make.truth(guard)
        seen = make.select(x, valid, float("-inf")) if valid else x
        scale, shift = make.own(gauge.scale), make.own(gauge.shift)
        peak = make.read(make.reduce(f"{gauge.name}_peak", "max", seen, (self.kernel.streamed or "",)))
        moved = make.hand_on(carry, build.apply("max", make.read(carry), build.add(build.mul(peak, scale), shift)))
        safe = make.let(f"{gauge.name}_safe", finite(make.read(moved)))
        tail = gauge.name.removeprefix("m_i")
        self.alphas[gauge.name] = make.let(f"alpha{tail}", build.exp(build.sub(make.read(carry), make.read(safe))), INSIDE)
        distance = build.sub(build.mul(make.read(seen), scale), build.sub(make.read(safe), shift))
        weight = make.let(step.name, build.exp(distance))
        make.alias[step.name] = weight
        if valid:
            make.zeros[weight] = valid
        if gauge.offset is not None:
            unmoved = build.apply("eq", make.read(carry), build.NEG_INF)
            far = build.apply("where", unmoved, build.ZERO, build.sub(make.read(carry), make.read(safe)))
            self.shifts[gauge.name] = make.let(f"m_shift{tail}", far, INSIDE)
            make.alias[gauge.offset] = make.let(gauge.offset, build.sub(make.read(x), make.read(safe)))

    def follow(self, step: Einsum, carry: str) -> Expr:
        """A carried sum after its gauges moved: times alpha for each weight, plus shifts times lower sums for each offset."""
        item = self.accumulators.get(step.name)
        found: Expr = self.build.read(carry)
        if item is None:
            return found
        lower = item.lower
        for gauge, power in item.offset_power:
            shift = self.build.read(self.shifts[gauge])
            factor: Expr = build.ONE
            for i in range(1, power + 1):
                factor = build.mul(factor, shift)
                assert lower is not None
                below = self.build.read(self.build.alias[lower])
                found = build.add(found, build.mul(build.const(float(comb(power, i))), build.mul(factor, below)))
                lower = self.accumulators[lower].lower
        for gauge, power in item.weight_power:
            for _ in range(power):
                found = build.mul(found, self.build.read(self.alphas[gauge]))
        return found


def finite(value: Expr) -> Expr:
    """A maximum, 0 where nothing is above minus infinity."""
    return build.apply("where", build.apply("eq", value, build.NEG_INF), build.ZERO, value)

"""Split-KV: each program handles a slice of the keys, and a second kernel combines the partial states.

    forward_parts, for each part                     forward_merge
    m_i_parts[part,m]   = m_i[m]                     w[m,part] = exp(m_i_parts[part,m] - m_i[m])
    l_i_parts[part,m]   = l_i[m]                     l_i[m]    = sum[part] w[m,part] * l_i_parts[part,m]
    acc_parts[part,m,e] = acc[m,e]                   acc[m,e]  = sum[part] w[m,part] * acc_parts[part,m,e]
                                                     o[m,e]    = safe_div(acc[m,e], l_i[m])

A partial sum is relative to the gauge of its part, so it is rescaled to the common gauge like a running sum: by w to its weight power, with
lower sums for its offset power. The combine kernel is thus a pass over the parts with the gauges and accumulators of the forward, where the
maximum of a part is the exponent. A part without unmasked keys has a maximum of minus infinity and sums of 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import comb

from attngen.ir import build
from attngen.ir.cascade import Einsum, Input
from attngen.ir.expr import Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import rewrite
from attngen.kernel.liveness import live
from attngen.kernel.partition import Kernel
from attngen.transform.streaming.gauges import Accumulator, Gauge

PARTS, MERGE = "forward_parts", "forward_merge"


def split_forward(kernel: Kernel) -> tuple[Kernel, Kernel]:
    """The split forward and the kernel that combines its states and runs the epilogue.

    Args:
        kernel: a forward without `loops`.

    Returns:
        `forward_parts`, whose outputs are the states [part, grid, rows, features] of gauges and accumulators; and `forward_merge`, which
        reads them and has the outputs of the forward.
    """
    names = Names(kernel.cascade)
    part = names.fresh("part")
    steps = {step.name for step in kernel.steps}
    gauges = tuple(item for item in kernel.gauges if item.weight in steps)
    accumulators = tuple(item for item in kernel.accumulators if item.name in steps)
    carried = {gauge.name: () for gauge in gauges} | {item.name: _features(kernel, item.name) for item in accumulators}
    rows = (*kernel.grid, kernel.resident)
    states = {name: Input(names.fresh(f"{name}_parts"), (part, *rows, *axes), len(rows) + len(axes) + 1) for name, axes in carried.items()}
    kernel = replace(kernel, gauges=gauges, accumulators=accumulators, split_axis=part)
    return _parts(kernel, states), _Merge(kernel, states).kernel()


def _features(kernel: Kernel, name: str) -> tuple[str, ...]:
    return tuple(axis for axis in kernel.axes(name) if axis in kernel.features)


def _parts(kernel: Kernel, states: dict[str, Input]) -> Kernel:
    own = {gauge.name: tuple(axis for axis in kernel.axes(gauge.weight) if axis != kernel.streamed) for gauge in kernel.gauges}
    own |= {item.name: kernel.axes(item.name) for item in kernel.accumulators}
    stored = tuple(Einsum(item.name, item.axes or (), build.read(name, own[name])) for name, item in states.items())
    outputs = tuple(item.name for item in states.values())
    return live(replace(kernel, role=PARTS, grid=(kernel.split_axis, *kernel.grid), steps=(*kernel.steps, *stored), outputs=outputs))


class _Merge:
    """The combine kernel: a pass over the parts."""

    def __init__(self, kernel: Kernel, states: dict[str, Input]) -> None:
        self.whole = kernel
        self.states = states
        self.rows = (*kernel.grid, kernel.resident)
        self.pair = (*self.rows, kernel.split_axis)
        self.gauges = {gauge.name: gauge for gauge in kernel.gauges}
        self.accumulators = {item.name: item for item in kernel.accumulators}

    def kernel(self) -> Kernel:
        merged = {step.name: step for gauge in self.whole.gauges for step in self.weights(gauge)}
        merged |= {item.name: self.sum(item) for item in self.whole.accumulators}
        wide = {name: build.read(name, step.axes) for name, step in merged.items()}
        after = [_reading(step, wide) for step in self.whole.steps if step.name not in merged]
        inputs = (*self.states.values(), *self.whole.inputs)
        gauges = tuple(
            replace(gauge, exponent=self.states[gauge.name].name, floor=(), scale=build.ONE, shift=build.ZERO)
            for gauge in self.whole.gauges
        )
        whole = replace(
            self.whole, role=MERGE, streamed=self.whole.split_axis, inputs=inputs, steps=(*merged.values(), *after), gauges=gauges
        )
        return live(replace(whole, may_mask=None, must_mask=None, bias_dots=()))

    def state(self, name: str) -> Read:
        item = self.states[name]
        return build.read(item.name, item.axes or ())

    def weights(self, gauge: Gauge) -> list[Einsum]:
        """The rescaling weight of a part, and the offset of its gauge from the common one if needed."""
        distance = build.sub(self.state(gauge.name), build.read(gauge.name, self.rows))
        weight = Einsum(gauge.weight, self.pair, build.exp(distance))
        return [weight, *([Einsum(gauge.offset, self.pair, distance)] if gauge.offset is not None else [])]

    def sum(self, item: Accumulator) -> Einsum:
        """A sum of the forward from those of the parts; with an offset shifted by d, `(y + d)**b = sum C(b, i) d**i y**(b - i)`."""
        total: Expr = self.state(item.name)
        lower = item.lower
        for gauge, power in item.offset_power:
            distance = self.distance(self.gauges[gauge])
            for i in range(1, power + 1):
                assert lower is not None
                term = build.mul(build.const(float(comb(power, i))), build.mul(_power(distance, i), self.state(lower)))
                total, lower = build.add(total, term), self.accumulators[lower].lower
        body = total
        for gauge, power in item.weight_power:
            body = build.mul(_power(build.read(self.gauges[gauge].weight, self.pair), power), body)
        axes = (*self.rows, *_features(self.whole, item.name))
        whole = next(step for step in self.whole.steps if step.name == item.name)
        return Einsum(item.name, axes, body, whole.reduce, (self.whole.split_axis,))

    def distance(self, gauge: Gauge) -> Expr:
        """The offset of a part's gauge; 0 for a fully masked part."""
        seen = build.apply("gt", self.state(gauge.name), build.NEG_INF)
        return build.apply("where", seen, build.read(gauge.offset or "", self.pair), build.ZERO)


def _reading(step: Einsum, wide: Mapping[str, Read]) -> Einsum:
    """A step with reads of combined sums, which have all grid axes."""
    body = rewrite(step.body, lambda node: wide.get(node.tensor) if isinstance(node, Read) else None)
    return replace(step, body=body)


def _power(expr: Expr, power: int) -> Expr:
    """expr ** power, as a product."""
    found = expr
    for _ in range(power - 1):
        found = build.mul(found, expr)
    return found

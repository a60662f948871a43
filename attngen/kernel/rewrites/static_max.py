"""Static max: a bounded exponent needs no running maximum.

x[m,n]   = 30.0 * tanh(s[m,n] / 30.0)            x[m,n]   = 30.0 * tanh(s[m,n] / 30.0)
w[m,n]   = exp(x[m,n] - m_i[m])            ->    w[m,n]   = exp(x[m,n])
lse[m]   = m_i[m] + log(l_i[m])                  lse[m]   = 0.0 + log(l_i[m])

That saves the row maximum of each tile and the rescaling of the accumulators. Takes and gives a kernel with the same outputs. For bfloat16
only: fp16 weights range from 6e-8 to 65504, and in fp32 the rounding of an exponent as large as its bound would be visible.
"""

from __future__ import annotations

import math
from dataclasses import replace

from attngen.analysis.value_ranges import value_range
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Const, Expr, Read
from attngen.ir.traverse import inline, rewrite
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import Note
from attngen.transform.streaming.gauges import Accumulator, Gauge

LARGEST = 60.0
"""exp(60) = 1e26: a million of them, times values of a million, do not overflow fp32, nor does exp(-60) underflow."""


def static_max(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel with constants for the running maxima of bounded exponents, and a note for each exponent."""
    notes: list[Note] = []
    bodies = {step.name: step.body for step in kernel.steps if step.reduce is None}
    for gauge in kernel.gauges:
        # A dot of queries and keys has no static bounds.
        low, high = value_range(inline(bodies[gauge.exponent], bodies), {}) if gauge.exponent in bodies else (-math.inf, math.inf)
        if not high - low <= 2 * LARGEST:
            notes.append(Note(gauge.exponent, kernel.role, False, f"it has no bounds, or wider ones than {2 * LARGEST:g}"))
        elif gauge.floor:
            notes.append(Note(gauge.exponent, kernel.role, False, "the maximum also covers a value of the row"))
        elif gauge.offset is not None:
            notes.append(Note(gauge.exponent, kernel.role, False, "a sum follows the maximum by more than a factor"))
        else:
            kernel = _fixed(kernel, gauge, build.const((low + high) / 2))
            text = f"within {low:g} and {high:g}; no maximum of each tile, and no rescaling of sums"
            notes.append(Note(gauge.exponent, kernel.role, True, text))
    return kernel, tuple(notes)


def _fixed(kernel: Kernel, gauge: Gauge, middle: Const) -> Kernel:
    def rule(node: Expr) -> Expr | None:
        return middle if isinstance(node, Read) and node.tensor == gauge.name else None

    def changed(step: Einsum) -> Einsum:
        if step.name == gauge.weight:
            return replace(step, body=build.exp(build.sub(build.read(gauge.exponent, step.axes), middle)))
        return replace(step, body=rewrite(step.body, rule))

    def freed(item: Accumulator) -> Accumulator:
        return replace(item, weight_power=tuple(power for power in item.weight_power if power[0] != gauge.name))

    return replace(
        kernel,
        steps=tuple(changed(step) for step in kernel.steps),
        gauges=tuple(item for item in kernel.gauges if item is not gauge),
        accumulators=tuple(freed(item) for item in kernel.accumulators),
    )

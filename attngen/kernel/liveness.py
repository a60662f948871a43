"""Liveness: dead step elimination in a kernel."""

from __future__ import annotations

from dataclasses import replace

from attngen.ir.traverse import names_read, step_reads
from attngen.kernel.kernel import Kernel


def live(kernel: Kernel) -> Kernel:
    """The kernel with live steps and inputs only; steps that are inputs are not traced further."""
    known = {item.name for item in kernel.inputs}
    by_name = {step.name: step for step in kernel.steps}
    needed: set[str] = set()
    pending = list(kernel.outputs)
    pending += [name for gauge in kernel.gauges for expr in (*gauge.floor, gauge.scale, gauge.shift) for name in names_read(expr)]
    while pending:
        name = pending.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in by_name and (name not in known or name in kernel.outputs):
            pending.extend(step_reads(by_name[name]))
    steps = tuple(step for step in kernel.steps if step.name in needed and (step.name not in known or step.name in kernel.outputs))
    inputs = tuple(item for item in kernel.inputs if item.name in needed and item.name not in {step.name for step in steps})
    return replace(kernel, steps=steps, inputs=inputs)

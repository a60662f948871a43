from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.ir.parser import parse
from attngen.ir.traverse import names_read, step_reads
from attngen.kernel.kernel import Kernel
from attngen.kernel.liveness import live
from tests import variants
from tests.kernel.computed import close, computed, drawn, kernels

ROLES = [(name, role) for name, text in variants.ALL.items() for role in kernels(text)]


def kernel(steps: str, outputs: str, inputs: str = "a[m,n], b[m,n], c[m]") -> Kernel:
    cascade = parse(f"cascade({inputs})\n{steps}\n  -> {outputs}")
    return Kernel("forward", "m", "n", (), (), (), cascade.inputs, cascade.steps, cascade.outputs)


@pytest.mark.parametrize(("name", "role"), ROLES)
def test_each_output_alone_is_computed_from_what_it_needs(name: str, role: str) -> None:
    whole = kernels(variants.ALL[name])[role]
    values = drawn(whole.inputs)
    truth = computed(whole, values)
    for output in whole.outputs:
        part = live(replace(whole, outputs=(output,)))
        gauges = [n for gauge in part.gauges for expr in (*gauge.floor, gauge.scale, gauge.shift) for n in names_read(expr)]
        needed = {output, *gauges, *(read for step in part.steps for read in step_reads(step))}
        assert {step.name for step in part.steps} <= needed | {gauge.exponent for gauge in part.gauges}
        assert {item.name for item in part.inputs} <= needed
        if not whole.gauges:
            close(computed(part, values), {output: truth[output]})


def test_what_was_computed_before_is_read() -> None:
    """A step that is an input as well is not computed again, unless it is what the kernel stores."""
    whole = kernel("  t[m,n] = a[m,n] * b[m,n]\n  y[m] = sum[n] t[m,n] * c[m]", "y")
    given = replace(whole, inputs=(*whole.inputs, parse("cascade(t[m,n])\n  u[m,n] = t[m,n]\n  -> u").inputs[0]))
    found = live(given)
    assert [step.name for step in found.steps] == ["y"]
    assert [item.name for item in found.inputs] == ["c", "t"]
    stored = live(replace(given, outputs=("y", "t")))
    assert [step.name for step in stored.steps] == ["t", "y"]
    assert [item.name for item in stored.inputs] == ["a", "b", "c"]


def test_predicates_are_read_as_well() -> None:
    found = live(kernel("  t[m] = c[m] + 1.0\n  y[m] = sum[n] a[m,n]  if c[m] > 0.0", "y"))
    assert [step.name for step in found.steps] == ["y"]
    assert [item.name for item in found.inputs] == ["a", "c"]

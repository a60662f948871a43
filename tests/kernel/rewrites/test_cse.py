from __future__ import annotations

import numpy as np
import pytest

from attngen.ir.cascade import Cascade
from attngen.ir.eval.interpret import interpret
from attngen.ir.parser import parse
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.cse import cse
from attngen.pipeline import analyse
from tests import variants

HEAD = "cascade(a[m,n], b[m,n], c[m]; cap: float)\n"


def kernel(steps: str, outputs: str = "y") -> Kernel:
    cascade = parse(f"{HEAD}{steps}\n  -> {outputs}")
    return Kernel("forward", "m", "n", (), (), (), cascade.inputs, cascade.steps, cascade.outputs)


def values(cascade: Cascade) -> dict[str, object]:
    rng = np.random.default_rng(0)
    found = interpret(cascade, {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(3, 4)), "c": rng.normal(size=3), "cap": 2.0})
    return {name: found[name] for name in cascade.outputs}


CASES = {
    "twice in one body": ("  y[m] = sum[n] tanh(a[m,n] / cap) * tanh(a[m,n] / cap)", "a_tanh[m,n] = tanh(a[m,n] / cap)"),
    "in two steps": ("  x[m,n] = cap * exp(a[m,n])\n  y[m] = sum[n] exp(a[m,n]) + x[m,n]", "a_exp[m,n] = exp(a[m,n])"),
    "part of a shared part": (
        "  x[m,n] = tanh(a[m,n] * cap) + a[m,n] * cap\n  y[m] = sum[n] tanh(a[m,n] * cap) * x[m,n]",
        "a_scaled[m,n] = a[m,n] * cap",
    ),
    "a whole body": ("  t[m,n] = tanh(a[m,n])\n  y[m] = sum[n] t[m,n] * (1.0 - tanh(a[m,n]) * b[m,n])", "t[m,n] = tanh(a[m,n])"),
    "in a masked step": (
        "  x[m,n] = sin(a[m,n])  if m >= n\n  y[m] = sum[n] x[m,n] * (sin(a[m,n]) + 1.0)",
        "x[m,n] = a_sin[m,n]  if m >= n",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_kept_and_computed_once(name: str) -> None:
    steps, expected = CASES[name]
    before = kernel(steps)
    after = cse(before)
    assert expected in [str(step) for step in after.steps]
    first, second = values(before.cascade), values(after.cascade)
    for output, value in first.items():
        np.testing.assert_array_equal(np.asarray(second[output]), np.asarray(value))
    assert cse(after) == after


@pytest.mark.parametrize(
    "steps",
    [
        "  y[m] = sum[n] a[m,n] * b[m,n]",
        "  y[m] = sum[n] tanh(c[m]) * a[m,n] + tanh(c[m]) * b[m,n]",
        "  y[m] = sum[n] -a[m,n] * (-a[m,n])",
    ],
)
def test_reads_row_values_and_signs_are_left_alone(steps: str) -> None:
    assert cse(kernel(steps)) == kernel(steps)


@pytest.mark.parametrize("name", variants.ALL)
def test_no_kernel_computes_a_tanh_or_an_exponential_twice(name: str) -> None:
    for found in analyse(parse(variants.ALL[name])).kernels:
        text = "\n".join(str(step) for step in found.steps)
        for function in ("tanh(", "exp("):
            parts = [text[at : text.find(")", at)] for at in range(len(text)) if text.startswith(function, at)]
            assert len(parts) == len(set(parts)), text

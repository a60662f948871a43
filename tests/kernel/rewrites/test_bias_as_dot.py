"""Biases in a narrow product: the columns hold the bias to an fp32 rounding, and what does not fit stays an addition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr
from attngen.kernel.kernel import BiasDot, Kernel
from attngen.kernel.rewrites.bias_as_dot import MOST_COLUMNS, bias_as_dot
from attngen.pipeline import Program, for_dtype
from tests import variants
from tests.kernel.computed import drawn, program
from tests.transform.laws import SIZES

BIASES = {
    "alibi": variants.CAUSAL_ALIBI,
    "two slopes": variants.CAUSAL_ALIBI.replace("(n - m)", "(n - m) - slopes[r] * (2 * m - 3 * n)"),
    "a slope of two heads": variants.CAUSAL_ALIBI.replace("slopes[g * extent(r) + r]", "slopes[g] * slopes[r + 2]"),
}


def folded(text: str) -> Program:
    return for_dtype(program(text), "bfloat16")


def parts(value: Tensor, which: int) -> Tensor:
    """A value rounded to bfloat16, what that leaves over rounded again, and so on."""
    for _ in range(which):
        value = value - value.bfloat16().double()
    return value.bfloat16().double()


def added(kernel: Kernel, dot: BiasDot) -> tuple[Tensor, Tensor]:
    """What the columns add to a tile, and what the step says."""
    axes = tuple(axis for axis in SIZES if axis in {*kernel.grid, *kernel.loops, kernel.resident, kernel.streamed})
    inputs = (*kernel.inputs, Input("lengths", axes, len(axes)))
    step = next(step for step in kernel.steps if step.name == dot.step)
    values = drawn(inputs)

    def value(expr: Expr) -> Tensor:
        """With 0 for the tile."""
        tile = Einsum(dot.tile.tensor, axes, build.ZERO)
        cascade = Cascade(inputs, (tile, Einsum("value", axes, build.add(expr, build.read(tile.name, axes)))), ("value",))
        return reference(cascade, values)["value"]

    found = sum((parts(value(left), i) * parts(value(right), j) for (left, i), (right, j) in dot.columns), torch.zeros(()).double())
    return found, value(step.body)


@pytest.mark.parametrize("name", BIASES)
def test_columns_are_the_bias_to_an_fp32_rounding(name: str) -> None:
    kernels = [kernel for kernel in folded(BIASES[name]).kernels if kernel.bias_dots]
    assert {kernel.role for kernel in kernels} == {"forward", "backward_rows", "backward_columns"}
    for kernel in kernels:
        for dot in kernel.bias_dots:
            found, truth = added(kernel, dot)
            largest = max(1.0, float(truth.abs().max()))
            assert float((found - truth).abs().max()) <= 2.0**-20 * largest
            assert len(dot.columns) <= MOST_COLUMNS


def test_a_kernel_says_what_was_done() -> None:
    notes = dict(folded(variants.CAUSAL_ALIBI).rewrites)["bias_as_dot"]
    assert {(note.role, note.applied, note.text) for note in notes} == {
        ("forward", True, "rank 1 in 3 columns of a product, 1 operations less for each pair"),
        ("backward_rows", True, "rank 1 in 6 columns of a product, 1 operations less for each pair"),
        ("backward_columns", True, "rank 1 in 6 columns of a product, 1 operations less for each pair"),
    }


def test_widths_are_powers_of_two_that_units_multiply() -> None:
    (dot,) = folded(variants.CAUSAL_ALIBI).kernels[0].bias_dots
    assert dot.width == 16
    assert replace(dot, columns=dot.columns * 6).width == 32


def test_nothing_is_folded_where_nothing_is_added() -> None:
    for kernel in program(variants.SOFTMAX).parts:
        assert bias_as_dot(kernel) == (kernel, ())

from __future__ import annotations

import pytest

from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.transform.autodiff.precise_delta import cancellation, cancelling_gradient
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.streaming import Streamed, streaming
from tests import variants
from tests.transform import more_variants
from tests.transform.laws import Point, assert_gradients

_OF_SQUARES = "  u2[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * a[b,g,r,m,n] * v[b,g,n,e]\n"
DIFFERENCE = variants.RELU.replace("  o[", f"{_OF_SQUARES}  o[").replace(
    "safe_div(u[b,g,r,m,e],", "safe_div(u[b,g,r,m,e] - 0.5 * u2[b,g,r,m,e],"
)
ALL = {**{name: (text, Point()) for name, text in variants.ALL.items()}, **more_variants.ALL, "difference": (DIFFERENCE, Point())}


def streamed(text: str) -> Streamed:
    return streaming(canonicalize(parse(text)), "m", "n")


def reason(text: str) -> str:
    return cancellation(streamed(text))


def biased(bias: str) -> str:
    return variants.SOFTMAX.replace("* 0.25", f"* 0.25 + {bias}", 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_gradients_are_the_same(name: str) -> None:
    assert_gradients(*ALL[name], random_gauge=False, precise_delta=True)


def test_nothing_as_large_as_an_output_is_saved() -> None:
    for name in ("softmax", "sink", "differential"):
        backward = assert_gradients(variants.ALL[name], random_gauge=False, precise_delta=True)
        assert not [item.name for item in backward.saved if "e" in backward.forward.cascade.axes(item.name)], name


def test_the_product_is_formed_once() -> None:
    backward = assert_gradients(variants.SOFTMAX, random_gauge=False, precise_delta=True)
    assert len([step for step in backward.cascade.steps if step.over == ("e",)]) <= 2
    program = analyse(parse(variants.SOFTMAX), precise_delta=True)
    for kernel in program.kernels:
        assert len([step for step in kernel.steps if step.over == ("e",)]) <= 1, kernel.role
    assert [kernel.role for kernel in program.kernels] == ["forward", "backward_statistics", "backward_rows", "backward_columns"]


@pytest.mark.parametrize("bias", ["8.0 * (n - m)", "-5.0 * abs(m - n)", "-4.0 * (m - n) * (m - n)", "where(n == 3, 40.0, 0.0)"])
def test_steep_positions(bias: str) -> None:
    assert "one key alone" in reason(biased(bias))


@pytest.mark.parametrize("bias", ["0.5 * (n - m)", "2.0 * (n - m)", "where(n < m, -10000.0, 0.0)", "0.25 * cos(1.0 * (m - n))"])
def test_mild_positions(bias: str) -> None:
    assert reason(biased(bias)) == ""


def test_what_divides() -> None:
    assert reason(variants.RELU) == "l divides the output and may be small"
    assert reason(variants.SIGMOID) == reason(variants.SOFTMAX) == reason(variants.SINK) == ""


def test_rows_that_want_a_gradient() -> None:
    found = streamed(variants.LEARNED_BIAS)
    assert cancelling_gradient(found, ("q", "row")) == "row is added to whole rows of x"
    assert cancelling_gradient(found, ("q", "col", "bias")) == ""
    program = analyse(parse(variants.LEARNED_BIAS))
    assert program.delta == "row is added to whole rows of x"
    assert not analyse(parse(variants.LEARNED_BIAS), wanted=frozenset(("q", "k", "v"))).delta


def test_a_choice_is_told_and_can_be_overruled() -> None:
    assert "summed" not in analyse(parse(variants.SOFTMAX)).delta
    assert analyse(parse(variants.RELU)).delta
    assert not analyse(parse(variants.RELU), precise_delta=False).delta
    assert analyse(parse(variants.SOFTMAX), precise_delta=True).delta == "it is asked for"

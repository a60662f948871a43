"""What a backward reads of its forward, and that it is the value at the end of the pass."""

from __future__ import annotations

import pytest
import torch

from attngen.interpreter.torch_reference import reference
from attngen.ir.parser import parse
from attngen.transform.autodiff.differentiate import Backward, differentiate
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.streaming import streaming
from tests import variants
from tests.transform import more_variants
from tests.transform.laws import AT, exponents_at, gauges_at

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}
SAVED = {
    "softmax": {"lse": True, "o": True},
    "causal_alibi": {"lse": True, "o": True},
    "sigmoid": {},
    "relu": {"o": True, "l": False},
    "entropy": {"o": True, "h": True, "lse": False},
    "sink": {"o": True, "lse": True},
    "gate": {"lse": False, "o": False},
    "differential": {"o": True, "acc_end": False, "lse1": False, "lse2": False},
}
"""By name, and whether it is an output anyway."""


def backward(text: str) -> Backward:
    streamed = streaming(canonicalize(parse(text)), "m", "n")
    return differentiate(streamed, tuple(item.name for item in streamed.cascade.inputs if item.differentiable))


@pytest.mark.parametrize("name", SAVED)
def test_what_is_saved(name: str) -> None:
    """Outputs cost nothing: a sum that one of them gives back is not stored."""
    assert {item.name: item.is_output for item in backward(TEXTS[name]).saved} == SAVED[name]


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("own_maximum", "own_logsumexp")])
def test_saved_values_do_not_depend_on_the_gauge(name: str) -> None:
    """They are values at the end of the pass, so whatever the running maximum was, they are the same: but where a maximum that the user
    subtracts is the gauge itself."""
    found = backward(TEXTS[name])
    values = AT.values(found.forward.cascade)
    one, other = gauges_at(found.forward, AT, 3), exponents_at(found.forward, values, AT)
    first, second = (reference(found.forward.cascade, {**values, **gauges}) for gauges in (one, other))
    for item in found.saved:
        if item.name in first:
            torch.testing.assert_close(first[item.name], second[item.name], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", TEXTS)
def test_gradients_read_no_gauge_and_no_sum_of_the_forward(name: str) -> None:
    found = backward(TEXTS[name])
    gauges = {gauge.name for gauge in found.forward.gauges}
    assert not gauges & {item.name for item in found.cascade.inputs}
    assert {item.name for item in found.saved} <= {item.name for item in found.cascade.inputs} | set(found.cascade.outputs)
    assert not {item.name for item in found.forward.accumulators} & {step.name for step in found.cascade.steps}


def test_a_sum_that_no_output_gives_back_is_stored_at_its_end() -> None:
    """Of two softmaxes in one output, the output gives back one."""
    found = backward(variants.DIFFERENTIAL)
    (stored,) = (str(step) for step in found.forward.cascade.steps if step.name == "acc_end")
    assert stored == "acc_end[b,h,m,e] = safe_div(acc[b,h,m,e], l_i2[b,h,m])"


def test_a_mask_of_all_keys_makes_weights_zero() -> None:
    """A row without keys has a logsumexp of minus infinity, and weights are measured from plus infinity there."""
    found = backward(variants.CAUSAL_ALIBI)
    (weight,) = (str(step) for step in found.cascade.steps if step.name == "w")
    assert weight == "w[b,g,r,m,n] = exp(x[b,g,r,m,n] - where(lse[b,g,r,m] == -inf, inf, lse[b,g,r,m]))  if m >= n"

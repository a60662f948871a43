"""Every variant against the float64 reference: exact in float64, within the contract at lower precision, finite at extremes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.ir.parser import parse
from tests import variants
from tests.kernels import cases, harness

LOW = [torch.float32, torch.float16, torch.bfloat16]
SMALL = cases.Sizes(b=1, g=1, r=2, m=40, n=70)


def names(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("variant", cases.ALL)
def test_float64_is_exact(variant):
    case = cases.case(variant)
    found = harness.run(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize("dtype", LOW, ids=names)
@pytest.mark.parametrize("variant", cases.ALL)
def test_contract(variant, dtype):
    check_contract(cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=70, n=100), seed=1), dtype)


@pytest.mark.parametrize("dtype", LOW, ids=names)
@pytest.mark.parametrize("variant", cases.ALL)
def test_scores_of_a_thousand(variant, dtype):
    """Rows attend to one key, so that gradients of q and k are differences of equal terms: dP and delta, computed in two ways."""
    case = cases.case(variant, SMALL, seed=2, scale=1000.0).to(dtype)
    check_contract(case, dtype, cancelling(case))


@pytest.mark.parametrize("dtype", LOW, ids=names)
@pytest.mark.parametrize("variant", [variant for variant in cases.ALL if variant != "factors"])
def test_row_offsets_of_ten_thousand(variant, dtype):
    """Feature 0 of each query and key multiplies to an offset of the scores: up, down and none, by turns.

    A factor of the key would make of an offset of the row scores that are thousands apart.
    """
    case = cases.case(variant, SMALL, seed=3)
    for name, value in case.values.items():
        if name[0] in "qk":
            value[..., 0] = 200.0
        if name[0] == "q":
            value[..., ::3, 0] = -200.0
            value[..., 1::3, 0] = 2.0
    check_contract(case, dtype)


@pytest.mark.parametrize("dtype", LOW, ids=names)
@pytest.mark.parametrize("variant", ["softmax", "causal", "sink", "differential", "entropy"])
def test_precise_delta_at_scores_of_a_thousand(variant, dtype):
    """Delta from the weights that it is compared with: the differences have their digits, and the contract counts from them."""
    check_contract(cases.case(variant, SMALL, seed=2, scale=1000.0), dtype, precise_delta=True)


@pytest.mark.parametrize("variant", ["softmax", "sink", "differential", "entropy", "relu", "two_masks", "lengths", "learned_bias"])
def test_precise_delta_is_exact(variant):
    case = cases.case(variant, SMALL)
    found = harness.run(case.cascade, case.values, case.cotangents, precise_delta=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@settings(max_examples=10)
@given(
    slope=st.sampled_from([1.0, 3.0, 5.0, 8.0, 20.0, 100.0]),
    form=st.sampled_from(
        ["{slope} * (n - m)  if m >= n", "{slope} * (m - n)", "-{slope} * abs(n - m)", "{slope} * (n - m)  if m >= n and m - n < 9"]
    ),
    dtype=st.sampled_from(LOW),
    seed=st.integers(0, 99),
)
def test_steep_positions(slope, form, dtype, seed):
    """Rows with nearly one key alone, by literal slopes: the derivation sums delta over the keys by itself."""
    text = variants.SOFTMAX.replace("* 0.25", f"* 0.25 + {form.format(slope=slope)}")
    check_contract(cases.case(parse(text), SMALL, seed=seed), dtype)


@pytest.mark.parametrize(("slope", "dtype"), [(8.0, torch.float16), (8.0, torch.bfloat16), (16.0, torch.bfloat16), (16.0, torch.float32)])
def test_steep_gradients_have_digits(slope, dtype):
    """At exponents of hundreds the saved logsumexp is rounded more coarsely than dp - delta is large."""
    case = cases.case(parse(variants.SOFTMAX.replace("* 0.25", f"* 0.25 + {slope} * (n - m)  if m >= n")), SMALL).to(dtype)
    case.cotangents["lse"].zero_()
    found = harness.run(case.cascade, case.values, case.cotangents).gradients
    right = harness.expected(case.cascade, case.values, case.cotangents).gradients
    for name in "qk":
        assert (found[name].double() - right[name]).abs().max() <= 0.05 * right[name].abs().max(), name


@settings(max_examples=10)
@given(shift=st.sampled_from([-1.0, 1.0, 2.0, 2.5]), dtype=st.sampled_from(LOW), seed=st.integers(0, 99))
def test_few_positive_weights(shift, dtype, seed):
    """A divisor that may be small: relu of scores, most of them negative."""
    text = variants.RELU.replace("relu(s[b,g,r,m,n])", f"relu(s[b,g,r,m,n] * 0.25 - {shift})")
    check_contract(cases.case(parse(text), SMALL, seed=seed), dtype)


def check_contract(
    case: cases.Case,
    dtype: torch.dtype,
    terms: Mapping[str, tuple[float, float]] | None = None,
    precise_delta: bool | None = None,
) -> None:
    case = case.to(dtype)
    found = harness.run(case.cascade, case.values, case.cotangents, precise_delta=precise_delta)
    arguments = cases.oracle(case.cascade), case.values, case.cotangents
    harness.contract(found, harness.expected(*arguments), harness.yardstick(*arguments, dtype), terms)


def cancelling(case: cases.Case) -> dict[str, tuple[float, float]]:
    """What the gradients of q and k are sums of, dP times a key or a query: maximum and mean."""
    cotangent = next(case.cotangents[name] for name in case.cotangents if case.cascade.axes(name)[-1] == "e").double()
    products = (cotangent.flatten(0, -2) @ case.values["v"].double().flatten(0, -2).T * 0.25).abs()
    sides = {name: value.double().abs() for name, value in case.values.items() if name[0] in "qk"}
    other = {name: sides[{"q": "k", "k": "q"}[name[0]] + name[1:]] for name in sides}
    return {f"gradient of {name}": (float(products.max() * x.max()), float(products.mean() * x.mean())) for name, x in other.items()}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("variant", "name"),
    [
        *(("learned_bias", name) for name in ("bias", "table", "col", "row", "temp")),
        *(("causal_alibi", "slopes"), ("sink", "sink"), ("sink_prefix", "sink"), ("gate", "gate"), ("differential", "lam")),
    ],
)
def test_captures_of_a_thousand(variant, name, sign):
    """Padding may then have infinite weights, which must reach no result."""
    case = cases.case(variant, SMALL)
    case.values[name] = sign * (1000.0 * case.values[name].abs() + 1000.0)
    found = harness.run(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, *LOW], ids=names)
@pytest.mark.parametrize(("variant", "sizes"), [("nothing", SMALL), ("lengths", cases.Sizes(b=3, g=1, r=1, m=40, n=70))])
def test_rows_without_keys(variant, sizes, dtype):
    """Output 0, logsumexp -inf, no gradient, in rows and batches where nothing exists."""
    case = cases.case(variant, sizes).to(dtype)
    found = harness.run(case.cascade, case.values, case.cotangents)
    empty = slice(None) if variant == "nothing" else slice(2, 3)
    assert torch.equal(found.outputs["o"][empty], torch.zeros_like(found.outputs["o"][empty]))
    assert (found.outputs["lse"][empty] == float("-inf")).all()
    for name in "qkv":
        assert not found.gradients[name][empty].any(), name


def test_rows_before_the_first_key():
    """More queries than keys, the last of both aligned: the first rows have nothing to attend to."""
    case = cases.case("causal_bottom_right", cases.Sizes(b=1, g=1, r=2, m=100, n=40))
    found = harness.run(case.cascade, case.values, case.cotangents)
    assert not found.outputs["o"][..., :60, :].any()
    assert (found.outputs["lse"][..., :60] == float("-inf")).all()
    assert found.outputs["lse"][..., 60:].isfinite().all()
    assert not found.gradients["q"][..., :60, :].any()
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))

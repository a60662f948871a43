from __future__ import annotations

import pytest

from attngen.errors import AxisError, MaskMismatch
from attngen.ir.parser import parse
from attngen.ir.verify import CanonicalForm, verify
from attngen.transform.canonicalize import canonicalize
from tests import variants
from tests.transform import more_variants
from tests.transform.more_variants import SCORES, after_softmax, attention, pair

ALL = {**variants.ALL, **{name: text for name, (text, _) in more_variants.ALL.items()}}


@pytest.mark.parametrize("name", ALL)
def test_form_and_idempotence(name: str) -> None:
    cascade = verify(canonicalize(parse(ALL[name])), CanonicalForm)
    assert canonicalize(cascade) == cascade


def test_a_row_value_of_minus_infinity_stays_a_number() -> None:
    cascade = canonicalize(parse(ALL["sink_that_some_heads_lack"]))
    step = cascade.step("c")
    assert step is not None
    assert step.where is None


def test_predicates_spread_to_reductions_and_end_there() -> None:
    cascade = canonicalize(parse(ALL["as_infinity"]))
    where = {step.name: step.where for step in cascade.steps}
    assert where["s"] is None
    assert where["x"] == where["lse"] == where["p"] == where["o"] is not None


def test_equal_steps_are_shared_but_outputs_stay() -> None:
    text = after_softmax(
        "  p2[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])\n  o2[b,g,r,m,e] = sum[n] p2[b,g,r,m,n] * v[b,g,n,e]\n", "o, o2"
    )
    names = [step.name for step in canonicalize(parse(text)).steps]
    assert names == ["s", "x", "lse", "p", "o", "o2"]


def test_dead_steps_go() -> None:
    cascade = canonicalize(parse(after_softmax("  z[b,g,r,m] = sum[n] x[b,g,r,m,n]\n", "lse")))
    assert [step.name for step in cascade.steps] == ["s", "x", "lse"]


def test_a_step_is_read_at_its_own_axes() -> None:
    text = "cascade(q[b,m,d], k[b,n,d], v[b,n,e])\n  s[b,m,n] = sum[d] q[b,m,d] * k[b,n,d]\n  o[b,m,e] = sum[n] s[b,n,m] * v[b,n,e]\n  -> o"
    with pytest.raises(AxisError):
        canonicalize(parse(text))


WEIGHTS = "  a1[b,g,r,m,n] = relu(s[b,g,r,m,n])  if m >= n\n  a2[b,g,r,m,n] = relu(s[b,g,r,m,n])  if n >= m\n"
DIFFERENCE = "  p[b,g,r,m,n] = p1[b,g,r,m,n] - lam * p2[b,g,r,m,n]\n  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]\n"
INSIDE = "  o[b,g,r,m,e] = sum[n] (p1[b,g,r,m,n] - lam * p2[b,g,r,m,n]) * v[b,g,n,e]\n"
MISMATCHED = {
    "second without a mask": pair(("m >= n", ""), DIFFERENCE),
    "first without a mask": pair(("", "m >= n"), DIFFERENCE),
    "two masks": pair(("m >= n", "n < 3"), DIFFERENCE),
    "inside of the sum": pair(("m >= n", ""), INSIDE),
    "weights with masks of their own": attention(
        SCORES + WEIGHTS + "  o[b,g,r,m,e] = sum[n] (a1[b,g,r,m,n] + a2[b,g,r,m,n]) * v[b,g,n,e]\n", "o"
    ),
    "a constant is everywhere": after_softmax("  z[b,g,r,m,e] = sum[n] (p[b,g,r,m,n] + 0.1) * v[b,g,n,e]\n", "z", mask="m >= n"),
    "one minus a weight": after_softmax("  z[b,g,r,m,e] = sum[n] (1.0 - p[b,g,r,m,n]) * v[b,g,n,e]\n", "z", mask="m >= n"),
}


@pytest.mark.parametrize("name", MISMATCHED)
def test_weights_under_different_masks_are_not_added(name: str) -> None:
    """PyTorch would take a missing weight for 0; a predicate cannot say that, so nothing is computed rather than something else."""
    with pytest.raises(MaskMismatch):
        canonicalize(parse(MISMATCHED[name]))


MATCHED = {
    "same mask": pair(("m >= n", "m >= n"), DIFFERENCE),
    "same mask in another order": pair(("m >= n and n < 3", "n < 3 and m >= n"), DIFFERENCE),
    "a bias for a masked score": attention(
        SCORES
        + "  c[b,n] = col[b,n] * 0.5\n  y[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if m >= n\n"
        + "  x[b,g,r,m,n] = c[b,n] + y[b,g,r,m,n]\n"
        + more_variants.SOFTMAX,
        "o",
        captures="col: float[:, :]",
    ),
    "scores under two masks": attention(
        SCORES
        + "  y[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if m >= n\n  z[b,g,r,m,n] = tanh(s[b,g,r,m,n])  if n > 0\n"
        + "  x[b,g,r,m,n] = y[b,g,r,m,n] + z[b,g,r,m,n]\n"
        + more_variants.SOFTMAX,
        "o",
    ),
    "a masked relu that is a score": ALL["scores_that_are_relus_under_a_mask"],
    "results of two masks": ALL["differential_with_two_masks"],
}


@pytest.mark.parametrize("name", MATCHED)
def test_sums_that_masks_allow(name: str) -> None:
    verify(canonicalize(parse(MATCHED[name])), CanonicalForm)

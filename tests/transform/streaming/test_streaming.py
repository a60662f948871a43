from __future__ import annotations

import dataclasses

import pytest
import torch

from attngen.errors import MaxNotAShift, NotStreamable
from attngen.ir.parser import parse
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.streaming import Streamed, streaming
from tests import variants
from tests.transform import more_variants
from tests.transform.laws import Point, assert_values, streamed_form
from tests.transform.more_variants import SCORES, after_softmax, attention, pair, scored

ALL = {**{name: (text, Point()) for name, text in variants.ALL.items()}, **more_variants.ALL}

# Where the formula itself overflows, or cancels, at scores of a thousand.
OVERFLOWS = {"no_maximum", "learned_temperature", "shift_by_the_mean", "one_exponent_under_two_masks"}
# p * log(p) is NaN where p is 0, as the reference evaluates it; here it is computed as w * (y - log(l)).
UNDERFLOWS = {"entropy": "log(p[b,g,r,m,n])", "entropy_masked": "log(p[b,g,r,m,n])", "divergence": ""}
# Raw moments of values with a large offset cancel: no gauge moves them.
CANCELS = {"variance"}


def form(text: str) -> Streamed:
    return streaming(canonicalize(parse(text)), "m", "n")


@pytest.mark.parametrize("name", ALL)
def test_values_at_any_gauge(name: str) -> None:
    assert_values(*ALL[name])


@pytest.mark.parametrize("name", ALL)
def test_values_at_the_maximum(name: str) -> None:
    assert_values(*ALL[name], random_gauge=False)


@pytest.mark.parametrize("name", [name for name in ALL if name not in OVERFLOWS | UNDERFLOWS.keys()])
def test_scores_of_a_thousand(name: str) -> None:
    text, point = ALL[name]
    assert_values(text, dataclasses.replace(point, scale=1e3), random_gauge=False)


@pytest.mark.parametrize("name", [name for name in ALL if name not in (OVERFLOWS - {"learned_temperature"}) | CANCELS | {"divergence"}])
def test_offsets_of_ten_thousand(name: str) -> None:
    text, point = ALL[name]
    values = point.values(parse(text))
    given = dict(point.given)
    for item in values.keys() & {"q", "k", "q1", "k1", "q2", "k2"}:
        values[item][..., 0] = 100.0
        given[item] = values[item]
    assert_values(text, dataclasses.replace(point, given=given), random_gauge=False, tolerance=1e-10)


@pytest.mark.parametrize("name", ["entropy", "entropy_masked"])
def test_entropy_of_weights_that_underflow(name: str) -> None:
    """The reference needs the logarithm spelled out, the derivation does not."""
    text, point = (variants.ENTROPY, Point()) if name == "entropy" else more_variants.ALL[name]
    finite = text.replace("log(p[b,g,r,m,n])", "(x[b,g,r,m,n] - lse[b,g,r,m])")
    assert finite != text
    point = dataclasses.replace(point, scale=1e3)
    assert_values(finite, point, random_gauge=False)
    assert form(text) == form(finite)


# ---- the shape of the result


RANKS = {
    "entropy": ("h", 2),
    "differential": ("o", 2),
    "variance": ("var", 3),
    "weighted_variance": ("var", 3),
    "tangent": ("z", 2),
    "one_pass_dq": ("dq", 2),
    "squared_surprise": ("h", 3),
    "softmax": ("o", 1),
    "own_logsumexp": ("h", 2),
}


@pytest.mark.parametrize("name", RANKS)
def test_ranks(name: str) -> None:
    reduction, rank = RANKS[name]
    assert dict(form(ALL[name][0]).ranks)[reduction] == rank


GAUGES = {
    "softmax": 1,
    "sigmoid": 0,
    "relu": 0,
    "entropy": 1,
    "sink": 1,
    "differential": 2,
    "own_maximum": 1,
    "masked_own_maximum_and_logsumexp": 1,
    "temperature_two": 1,
    "temperature_half": 2,
    "product_of_softmaxes": 2,
    "one_exponent_under_two_masks": 2,
    "two_temperatures_of_one_score": 2,
    "joint_softmax": 2,
}


@pytest.mark.parametrize("name", GAUGES)
def test_one_gauge_for_one_exponent_under_one_mask(name: str) -> None:
    assert len(form(ALL[name][0]).gauges) == GAUGES[name]


def test_softmax_text() -> None:
    steps = [str(step) for step in form(variants.SOFTMAX).cascade.steps]
    assert steps[2:] == [
        "w[b,g,r,m,n] = exp(x[b,g,r,m,n] - m_i[b,g,r,m])",
        "l_i[b,g,r,m] = sum[n] w[b,g,r,m,n]",
        "lse[b,g,r,m] = m_i[b,g,r,m] + log(l_i[b,g,r,m])",
        "acc[b,g,r,m,e] = sum[n] w[b,g,r,m,n] * v[b,g,n,e]",
        "o[b,g,r,m,e] = safe_div(acc[b,g,r,m,e], l_i[b,g,r,m])",
    ]


def test_a_sink_is_the_floor_of_its_gauge() -> None:
    (gauge,) = form(variants.SINK).gauges
    assert len(gauge.floor) == 1
    assert gauge.value == "lse"


def test_a_gauge_is_a_row_value_of_its_mask() -> None:
    (gauge,) = (streamed := form(ALL["scores_without_batch"][0])).gauges
    assert streamed.cascade.axes(gauge.name) == ("b", "h", "m")


def test_names_that_a_user_took_are_left_alone() -> None:
    text = """cascade(m_i[b,m,d], l_i[b,n,d], w[b,n,acc])
  x[b,m,n] = sum[d] m_i[b,m,d] * l_i[b,n,d]
  lse[b,m] = logsumexp[n] x[b,m,n]
  o[b,m,acc] = sum[n] exp(x[b,m,n] - lse[b,m]) * w[b,n,acc]
  -> o"""
    assert_values(text, Point(sizes={"acc": 4}))


def test_small_steps_move_into_what_reads_them() -> None:
    assert form(ALL["sink_that_some_heads_lack"][0]).cascade.step("c") is None


def test_equal_sums_are_shared_and_outputs_keep_their_names() -> None:
    text = after_softmax(
        "  o2[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]\n  l2[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]\n", "o, o2, l2, lse"
    )
    assert len(assert_values(text).accumulators) == 2


# ---- what one pass cannot do


REFUSED = {
    "maximum without a normaliser": (
        attention(
            SCORES + "  mx[b,g,r,m] = max[n] s[b,g,r,m,n]\n  o[b,g,r,m,e] = sum[n] exp(s[b,g,r,m,n] - mx[b,g,r,m]) * v[b,g,n,e]\n",
            "o",
        ),
        MaxNotAShift,
    ),
    "maximum inside of tanh": (
        after_softmax("  mx[b,g,r,m] = max[n] x[b,g,r,m,n]\n  z[b,g,r,m,e] = sum[n] tanh(x[b,g,r,m,n] - mx[b,g,r,m]) * v[b,g,n,e]\n", "z"),
        MaxNotAShift,
    ),
    "maximum in an unnormalised square": (
        after_softmax("  mx[b,g,r,m] = max[n] x[b,g,r,m,n]\n  z[b,g,r,m] = sum[n] (x[b,g,r,m,n] - mx[b,g,r,m]) ** 2\n", "z"),
        MaxNotAShift,
    ),
    "mask of finished values": (
        after_softmax("  z[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]  if x[b,g,r,m,n] > lse[b,g,r,m] - 1.0\n", "z"),
        NotStreamable,
    ),
    "choice by finished values": (
        after_softmax("  z[b,g,r,m] = sum[n] where(x[b,g,r,m,n] > lse[b,g,r,m], p[b,g,r,m,n], 0.0)\n", "z"),
        NotStreamable,
    ),
    "sum of weights over heads": (
        after_softmax("  pm[b,g,m,n] = sum[r] p[b,g,r,m,n]\n  z[b,g,m,e] = sum[n] pm[b,g,m,n] * v[b,g,n,e]\n", "z"),
        NotStreamable,
    ),
    "sum over a feature of finished values": (
        after_softmax("  t[b,g,r,m,n] = sum[e] o[b,g,r,m,e] * v[b,g,n,e]\n  z[b,g,r,m] = sum[n] t[b,g,r,m,n]\n", "z"),
        NotStreamable,
    ),
    "column sums": (after_softmax("  z[b,g,r,n] = sum[m] p[b,g,r,m,n]\n", "z"), NotStreamable),
    "column sums of scores": (after_softmax("  z[b,g,r,n] = sum[m] x[b,g,r,m,n]\n", "o, z"), NotStreamable),
    "weights as an output": (after_softmax("", "o, p"), NotStreamable),
    "softmax of a softmax": (after_softmax("  l2[b,g,r,m] = logsumexp[n] p[b,g,r,m,n]\n", "l2"), NotStreamable),
    "maximum of weights": (after_softmax("  top[b,g,r,m] = max[n] p[b,g,r,m,n]\n", "top"), NotStreamable),
    "two axes at once": (attention("  z[b,g,r,m] = sum[n,d] q[b,g,r,m,d] * k[b,g,n,d]\n", "z"), NotStreamable),
    "position from finished values": (
        after_softmax("  z[b,g,r,m] = table[to_int(lse[b,g,r,m])]\n", "z", captures="table: float[:]"),
        NotStreamable,
    ),
    "logarithms of two softmaxes": (
        pair(("", ""), "  o[b,g,r,m] = sum[n] p1[b,g,r,m,n] * log(p1[b,g,r,m,n]) * log(p2[b,g,r,m,n]) * lam\n"),
        NotStreamable,
    ),
    "shift inside of tanh": (after_softmax("  z[b,g,r,m] = sum[n] tanh(x[b,g,r,m,n] - lse[b,g,r,m])\n", "z"), NotStreamable),
    "gaussian of a running mean": (
        after_softmax(
            "  mean[b,g,r,m] = sum[n] x[b,g,r,m,n] / extent(n)\n  z[b,g,r,m] = sum[n] exp(-((x[b,g,r,m,n] - mean[b,g,r,m]) ** 2) / 2.0)\n",
            "z",
        ),
        NotStreamable,
    ),
    "entmax": (
        after_softmax("  z[b,g,r,m,e] = sum[n] relu(x[b,g,r,m,n] - lse[b,g,r,m]) ** 2 * v[b,g,n,e]\n", "z"),
        NotStreamable,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, error = REFUSED[name]
    with pytest.raises(error):
        form(text)


MAXIMA = {
    "an output": attention(SCORES + "  mx[b,g,r,m] = max[n] s[b,g,r,m,n]  if m >= n\n", "mx"),
    "beside a softmax": after_softmax("  mx[b,g,r,m] = max[n] x[b,g,r,m,n]\n  z[b,g,r,m] = lse[b,g,r,m] - mx[b,g,r,m]\n", "o, z"),
    "a scale": after_softmax("  mx[b,g,r,m] = max[n] x[b,g,r,m,n]\n  z[b,g,r,m,e] = o[b,g,r,m,e] * mx[b,g,r,m]\n", "z"),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_a_maximum_that_no_element_reads_is_a_value(name: str) -> None:
    streamed = assert_values(MAXIMA[name])
    assert [step.name for step in streamed.cascade.steps if step.reduce == "max"] == ["mx"]
    assert "mx" in {item.name for item in streamed.accumulators}


def test_the_factor_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(NotStreamable, match=r"tanh\(x\[b,g,r,m,n\] - lse\[b,g,r,m\]\)"):
        form(REFUSED["shift inside of tanh"][0])


def test_a_maximum_of_another_value_is_a_free_shift_too() -> None:
    assert_values(
        after_softmax(
            """  mx[b,g,r,m] = max[n] s[b,g,r,m,n]
  a[b,g,r,m,n] = exp(x[b,g,r,m,n] - mx[b,g,r,m])
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  z[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * v[b,g,n,e] / l[b,g,r,m]
""",
            "z",
        )
    )


def test_base_two() -> None:
    assert_values(
        after_softmax(
            "  z[b,g,r,m] = sum[n] p[b,g,r,m,n] * log2(p[b,g,r,m,n])\n"
            "  y[b,g,r,m,e] = sum[n] exp2(x[b,g,r,m,n] - lse[b,g,r,m]) * v[b,g,n,e]\n",
            "z, y",
        )
    )


def test_values_that_do_not_vary_along_the_streamed_axis() -> None:
    rows = attention("  c[b,g,r,m] = sum[d] q[b,g,r,m,d]\n  lse[b,g,r,m] = logsumexp[n] c[b,g,r,m]  if m >= n\n", "lse")
    assert_values(rows)
    assert_values(after_softmax("  z[b,g,r,m] = sum[n] lse[b,g,r,m] * col[b,n]\n", "z", captures="col: float[:, :]"))


def test_streaming_keeps_the_cascade_as_it_is() -> None:
    cascade = canonicalize(parse(variants.ENTROPY))
    before = str(cascade)
    assert streaming(cascade, "m", "n") == streaming(cascade, "m", "n")
    assert str(cascade) == before


def test_no_keys_at_all() -> None:
    empty = Point(sizes={"n": 0})
    values = assert_values(variants.SOFTMAX, empty)
    assert values.gauges
    assert_values(scored("s[b,g,r,m,n] * 0.5  if m >= n"), Point(sizes={"m": 1, "n": 1}))


def test_forms_are_verified() -> None:
    cascade, streamed = streamed_form(variants.DIFFERENTIAL)
    assert streamed.cascade.outputs == cascade.outputs
    assert torch.get_default_dtype() == torch.float32

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.errors import NotDifferentiable
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read
from attngen.ir.parser import parse
from attngen.transform.autodiff.differentiate import Backward, differentiate
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.streaming import streaming
from tests import variants
from tests.transform import more_variants
from tests.transform.laws import Point, assert_gradients
from tests.transform.more_variants import after_softmax, attention, scored

ALL = {**{name: (text, Point()) for name, text in variants.ALL.items()}, **more_variants.ALL}
OVERFLOWS = {"no_maximum", "learned_temperature", "shift_by_the_mean", "one_exponent_under_two_masks"}
UNDERFLOWS = {"entropy", "entropy_masked", "divergence"}


def backward(text: str, wrt: tuple[str, ...] | None = None) -> Backward:
    cascade = canonicalize(parse(text))
    targets = tuple(item.name for item in cascade.inputs if item.differentiable) if wrt is None else wrt
    return differentiate(streaming(cascade, "m", "n"), targets)


def saved(text: str) -> set[str]:
    return {item.name for item in backward(text).saved}


@pytest.mark.parametrize("name", ALL)
def test_gradients_at_any_gauge(name: str) -> None:
    assert_gradients(*ALL[name])


@pytest.mark.parametrize("name", ALL)
def test_gradients_at_the_maximum(name: str) -> None:
    assert_gradients(*ALL[name], random_gauge=False)


@pytest.mark.parametrize("name", [name for name in ALL if name not in OVERFLOWS | UNDERFLOWS])
def test_gradients_at_scores_of_a_thousand(name: str) -> None:
    text, point = ALL[name]
    assert_gradients(text, dataclasses.replace(point, scale=1e3), random_gauge=False, tolerance=1e-9)


@pytest.mark.parametrize("name", [name for name in ALL if name not in (OVERFLOWS - {"learned_temperature"}) | {"divergence", "variance"}])
@pytest.mark.slow
def test_gradients_at_offsets_of_ten_thousand(name: str) -> None:
    text, point = ALL[name]
    values = point.values(parse(text))
    given_values = dict(point.given)
    for item in values.keys() & {"q", "k", "q1", "k1", "q2", "k2"}:
        values[item][..., 0] = 100.0
        given_values[item] = values[item]
    assert_gradients(text, dataclasses.replace(point, given=given_values), random_gauge=False, tolerance=1e-8)


# ---- what is saved, and what the targets may be


def test_softmax_saves_nothing_but_its_outputs() -> None:
    assert saved(variants.SOFTMAX) == {"o", "lse"}
    assert all(item.is_output for item in backward(variants.SOFTMAX).saved)


def test_one_extra_tensor_for_a_second_softmax() -> None:
    found = saved(variants.DIFFERENTIAL)
    assert len(found) == 4
    assert found >= {"lse1", "lse2", "o"}


def test_an_output_that_gives_a_sum_back_is_not_saved_twice() -> None:
    assert saved(variants.GATE) == {"lse", "o"}
    assert saved(variants.RELU) == {"l", "o"}


def test_softmax_backward_text() -> None:
    """delta comes out by itself: dl_i = dlse - rowsum(do * o), ds = p * (dp + dl_i)."""
    text = str(backward(variants.SOFTMAX).cascade)
    assert "dl_i_part[b,g,r,m] = sum[e] -(do[b,g,r,m,e] * o[b,g,r,m,e])" in text
    assert "dx[b,g,r,m,n] = dw[b,g,r,m,n] * w[b,g,r,m,n]" in text
    assert "log(" not in text


def test_gradients_only_of_what_is_asked_for() -> None:
    only = backward(variants.SOFTMAX, ("v",))
    assert [gradient.target for gradient in only.gradients] == ["v"]
    assert not {"dw", "dx", "ds"} & {step.name for step in only.cascade.steps}


def test_an_unused_input_has_no_gradient() -> None:
    text = after_softmax("", "o", ", unused[b,m]", "other: float[:]")
    assert {gradient.target for gradient in backward(text).gradients} == {"q", "k", "v"}


@pytest.mark.parametrize("wrt", [("nothing",), ("lengths",), ("lse",)])
def test_only_float_inputs_have_gradients(wrt: tuple[str, ...]) -> None:
    with pytest.raises(NotDifferentiable):
        backward(more_variants.ALL["lengths"][0], wrt)


@pytest.mark.parametrize("reduce", ["max", "logsumexp"])
def test_reductions_over_a_feature(reduce: str) -> None:
    """The largest elements share the gradient of a maximum."""
    text = attention(
        more_variants.SCORES
        + f"  top[b,g,r,m] = {reduce}[d] q[b,g,r,m,d]\n  x[b,g,r,m,n] = s[b,g,r,m,n] * top[b,g,r,m]\n"
        + more_variants.SOFTMAX,
        "o",
    )
    ties = torch.randint(-1, 2, (2, 2, 2, 5, 4), generator=torch.Generator().manual_seed(3)).double()
    assert_gradients(text, Point(given={"q": ties}))


def test_no_gradient_goes_through_a_maximum_over_keys() -> None:
    """The other outputs have theirs."""
    found = backward(after_softmax("  top[b,g,r,m] = max[n] x[b,g,r,m,n]\n", "o, top", mask="m > n"))
    assert found.ungraded == ("top",)
    assert {gradient.target for gradient in found.gradients} == {"q", "k", "v"}


def test_a_gradient_may_be_a_copy_of_a_cotangent() -> None:
    assert_gradients(after_softmax("  z[b,g,r,m,e] = o[b,g,r,m,e] + extra[b,g,r,m,e]\n", "z", ", extra[b,g,r,m,e]"))


def test_an_input_as_an_output() -> None:
    assert_gradients(after_softmax("", "o, q"))


def test_one_input_for_rows_and_keys() -> None:
    """Read along two axes: one gradient along its own axis, one to be added at the positions of the other."""
    text = """cascade(x[b,m,d], v[b,n,e])
  s[b,m,n] = sum[d] x[b,m,d] * x[b,n,d]
  lse[b,m] = logsumexp[n] s[b,m,n]
  o[b,m,e] = sum[n] exp(s[b,m,n] - lse[b,m]) * v[b,n,e]
  -> o"""
    found = assert_gradients(text, Point(sizes={"m": 7}))
    assert sorted(gradient.at is None for gradient in found.gradients if gradient.target == "x") == [False, True]


def test_an_input_read_at_shifted_positions() -> None:
    text = """cascade(q[b,m,d], k[b,n,d], v[b,n,e])
  s[b,m,n] = sum[d] q[b,m,d] * k[b,max(n - 1, 0),d]
  lse[b,m] = logsumexp[n] s[b,m,n]
  o[b,m,e] = sum[n] exp(s[b,m,n] - lse[b,m]) * v[b,n,e]
  -> o"""
    assert_gradients(text)


def test_partial_gradients_keep_what_their_positions_need() -> None:
    found = {gradient.target: gradient for gradient in backward(variants.LEARNED_BIAS).gradients}
    axes = {target: set(backward(variants.LEARNED_BIAS).cascade.axes(gradient.step)) for target, gradient in found.items()}
    assert axes["bias"] == {"g", "r", "m", "n"}
    assert axes["table"] == {"m", "n"}
    assert axes["col"] == {"b", "g", "n"}
    assert axes["row"] == axes["temp"] == {"b", "g", "r", "m"}


# ---- random scores


SCORE = Read("s", tuple(Index(axis) for axis in "bhmn"))
ROW = Read("a", tuple(Index(axis) for axis in "bhm"))
KEY = Read("c", tuple(Index(axis) for axis in "bn"))
TABLE = Read("t", (Apply("mod", (Apply("sub", (Index("m"), Index("n"))), Const(5, "int"))),))
HEAD = Read("slopes", (Index("h"),))
PLACE = Read("t", (Read("places", (Index("n"),), "int"),))

LEAVES: tuple[Expr, ...] = (SCORE, SCORE, ROW, KEY, TABLE, HEAD, PLACE, Read("temp", ()))
WHOLE: tuple[Expr, ...] = (Index("m"), Index("n"), Extent("n"), Apply("sub", (Index("m"), Index("n"))))
UNARY = ("neg", "tanh", "sigmoid", "softplus", "relu", "gelu", "gelu_tanh", "sin", "cos", "erf", "abs")
BINARY = ("add", "sub", "mul", "mul", "logaddexp", "max", "min")


def scores() -> st.SearchStrategy[Expr]:
    """Smooth or kinked scores of moderate size over rows, keys, positions and captures."""
    leaf = st.one_of(
        st.sampled_from(LEAVES),
        st.sampled_from([Const(x, "float") for x in (-1.5, -0.25, 0.5, 2.0)]),
        st.sampled_from(WHOLE).map(lambda e: Apply("mul", (Apply("to_float", (e,)), Const(0.1, "float")))),
    )

    def grow(e: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        bounded = e.map(lambda x: Apply("tanh", (x,)))
        return st.one_of(
            st.tuples(st.sampled_from(BINARY), e, e).map(lambda t: Apply(t[0], (t[1], t[2]))),
            st.tuples(st.sampled_from(UNARY), e).map(lambda t: Apply(t[0], (t[1],))),
            bounded.map(lambda x: Apply("exp", (x,))),
            bounded.map(lambda x: Apply("exp2", (x,))),
            bounded.map(lambda x: Apply("log", (Apply("add", (x, Const(1.5, "float"))),))),
            bounded.map(lambda x: Apply("rsqrt", (Apply("add", (x, Const(1.5, "float"))),))),
            st.tuples(e, bounded).map(lambda t: Apply("div", (t[0], Apply("add", (t[1], Const(2.0, "float")))))),
            st.tuples(st.sampled_from([KEY, SCORE, ROW]).map(lambda x: Apply("gt", (x, Const(0.3, "float")))), e, e).map(
                lambda t: Apply("where", t)
            ),
            bounded.map(lambda x: Apply("pow", (Apply("add", (x, Const(2.0, "float"))), Const(3.0, "float")))),
        )

    return st.recursive(leaf, grow, max_leaves=6)


def masks() -> st.SearchStrategy[Expr | None]:
    here = [
        Apply("ge", (Index("m"), Index("n"))),
        Apply("lt", (Index("n"), Read("lengths", (Index("b"),), "int"))),
        Apply("ne", (Apply("mod", (Index("n"), Const(3, "int"))), Const(1, "int"))),
        Apply("gt", (SCORE, Const(-0.5, "float"))),
    ]
    return st.one_of(
        st.none(), st.sampled_from(here), st.tuples(st.sampled_from(here), st.sampled_from(here)).map(lambda t: Apply("and", t))
    )


NORMALISED = {
    "softmax": "  lse[b,h,m] = logsumexp[n] x[b,h,m,n]\n  p[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m])\n",
    "sigmoid": "  p[b,h,m,n] = sigmoid(x[b,h,m,n])\n",
    "maximum": """  mx[b,h,m] = max[n] x[b,h,m,n]
  l[b,h,m] = sum[n] exp(x[b,h,m,n] - mx[b,h,m])
  p[b,h,m,n] = exp(x[b,h,m,n] - mx[b,h,m]) / l[b,h,m]
""",
    "sink": """  lse0[b,h,m] = logsumexp[n] x[b,h,m,n]
  lse[b,h,m] = logaddexp(lse0[b,h,m], slopes[h])
  p[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m])
""",
}
ENDINGS = {
    "output": "  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,n,e]\n  -> o",
    "gated": "  u[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,n,e]\n  o[b,h,m,e] = u[b,h,m,e] * sigmoid(a[b,h,m]) + a[b,h,m]\n  -> o",
    "moments": "  mu[b,h,m] = sum[n] p[b,h,m,n] * c[b,n]\n  o[b,h,m] = sum[n] p[b,h,m,n] * (c[b,n] - mu[b,h,m]) ** 2\n  -> mu, o",
}


@st.composite
def cascades(draw: st.DrawFn) -> Cascade:
    rest = f"{NORMALISED[draw(st.sampled_from(sorted(NORMALISED)))]}{ENDINGS[draw(st.sampled_from(sorted(ENDINGS)))]}"
    frame = parse(
        "cascade(q[b,h,m,d], k[b,n,d], v[b,n,e], a[b,h,m], c[b,n]; t: float[:], slopes: float[:], temp: float[], places: int[:], "
        "lengths: int[:])\n"
        f"  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,n,d]\n  x[b,h,m,n] = s[b,h,m,n]\n{rest}"
    )
    score = Einsum("x", ("b", "h", "m", "n"), draw(scores()), where=draw(masks()))
    return dataclasses.replace(frame, steps=tuple(score if step.name == "x" else step for step in frame.steps))


RANDOM = Point(
    sizes={"m": 3, "n": 4, "h": 2, "d": 2, "e": 2},
    captures={"t": (5,), "slopes": (2,), "places": (4,), "lengths": (2,)},
)


@given(cascade=cascades(), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_derived_gradients_are_those_of_autograd(cascade: Cascade, seed: int) -> None:
    assert_gradients(str(cascade), dataclasses.replace(RANDOM, seed=seed), tolerance=1e-9)


@pytest.mark.parametrize("mask", ["m >= n", "n < lengths[b]"])
def test_rows_without_keys_have_no_gradient(mask: str) -> None:
    text = scored(f"s[b,g,r,m,n] + row[b,m]  if {mask} and m > 1", captures="row: float[:, :], lengths: int[:]")
    assert_gradients(text, more_variants.LENGTHS)

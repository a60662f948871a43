from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.errors import ArgumentError, AxisError, GatherOutOfRange, ShapeMismatch
from attngen.ir.cascade import Cascade
from attngen.ir.eval.axis_lengths import axis_extents
from attngen.ir.eval.interpret import interpret
from attngen.ir.eval.numpy_backend import NumpyBackend
from attngen.ir.parser import parse
from attngen.ir.verify import TracedForm, verify
from tests.cascades import Scalars, cascades, values

SOFTMAX = """
cascade(q[m,d], k[n,d], v[n,e])
  s[m,n] = sum[d] q[m,d] * k[n,d]
  x[m,n] = s[m,n] * 0.5  if m >= n + 1
  lse[m] = logsumexp[n] x[m,n]
  p[m,n] = exp(x[m,n] - lse[m])
  o[m,e] = sum[n] p[m,n] * v[n,e]
  -> o, lse
"""


@given(cascades(), st.fixed_dictionaries({axis: st.integers(1, 3) for axis in "mnd"}), st.integers(0, 99))
def test_agrees_with_the_definition_element_by_element(cascade: Cascade, extents: dict[str, int], seed: int) -> None:
    verify(cascade, TracedForm)
    inputs = values(extents, seed)
    found = interpret(cascade, inputs)
    scalars = Scalars(cascade, inputs, extents)
    for step in cascade.steps:
        np.testing.assert_allclose(found[step.name], scalars.tensor(step.name), rtol=1e-9, atol=1e-9)


def test_softmax_against_numpy() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(5, 3)), rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    found = interpret(parse(SOFTMAX), {"q": q, "k": k, "v": v})
    scores = np.where(np.arange(5)[:, None] > np.arange(7), q @ k.T * 0.5, -np.inf)
    weights = np.exp(scores[1:])
    np.testing.assert_allclose(found["o"][1:], weights @ v / weights.sum(1, keepdims=True), rtol=1e-13)
    np.testing.assert_allclose(found["lse"][1:], np.log(weights.sum(1)), rtol=1e-13)


def test_row_that_attends_to_nothing() -> None:
    found = interpret(parse(SOFTMAX), {"q": np.ones((2, 1)), "k": np.ones((3, 1)), "v": np.ones((3, 1))})
    assert found["lse"][0] == -np.inf
    assert found["o"][0] == 0
    assert not np.isnan(found["p"]).any()


def test_values_behind_a_mask_do_not_matter() -> None:
    q, k, v = np.ones((3, 1)), np.ones((3, 1)), np.ones((3, 1))
    v[2], k[2] = np.nan, np.inf
    found = interpret(parse(SOFTMAX), {"q": q, "k": k, "v": v})
    np.testing.assert_allclose(found["o"][:, 0], [0, 1, 1], rtol=1e-15)


@pytest.mark.parametrize("shapes", [(0, 3), (3, 0), (0, 0)])
def test_empty_axes(shapes: tuple[int, int]) -> None:
    m, n = shapes
    found = interpret(parse(SOFTMAX), {"q": np.ones((m, 2)), "k": np.ones((n, 2)), "v": np.ones((n, 2))})
    assert found["o"].shape == (m, 2)
    assert (found["o"] == 0).all() and (found["lse"] == -np.inf).all()


def test_scores_of_a_thousand_are_stable() -> None:
    found = interpret(parse(SOFTMAX), {"q": np.full((3, 1), 1e3), "k": np.array([[1.0], [-1.0], [1.0]]), "v": np.ones((3, 1))})
    np.testing.assert_allclose(found["o"][1:, 0], 1)
    assert np.isfinite(found["lse"][1:]).all()


def test_a_sum_without_the_axis_in_a_factor_counts_it() -> None:
    cascade = parse("cascade(a[m], c[n])\n  y[m] = sum[n] a[m] * a[m]  if n >= 0\n  z[m] = sum[n] a[m] * to_float(n + 1)\n  -> y, z")
    found = interpret(cascade, {"a": np.array([2.0, 3.0]), "c": np.zeros(4)})
    np.testing.assert_array_equal(found["y"], [16, 36])
    np.testing.assert_array_equal(found["z"], [20, 30])


def test_integers_round_down_and_truncate() -> None:
    cascade = parse(
        "cascade(a[m])\n  y[m] = (m - 3) // 2\n  z[m] = (m - 3) % 2\n  t[m] = to_int(a[m])\n  f[m] = a[m] // 2.0\n  -> y, z, t, f"
    )
    found = interpret(cascade, {"a": np.array([-1.5, 1.5, -0.5, 2.0])})
    assert found["y"].tolist() == [-2, -1, -1, 0]
    assert found["z"].tolist() == [1, 0, 1, 0]
    assert found["t"].tolist() == [-1, 1, 0, 2]
    assert found["f"].tolist() == [-1, 0, -1, 1]


class TestGathers:
    CASCADE = "cascade(a[m]; t: float[:])\n  y[m] = a[m] * t[m - 1]{where}\n  -> y"

    def test_outside_is_an_error(self) -> None:
        with pytest.raises(GatherOutOfRange):
            interpret(parse(self.CASCADE.format(where="")), {"a": np.ones(3), "t": np.ones(3)})

    def test_outside_is_harmless_where_masked(self) -> None:
        found = interpret(parse(self.CASCADE.format(where="  if m >= 1")), {"a": np.ones(3), "t": np.arange(2.0)})
        assert found["y"].tolist() == [0, 0, 1]

    def test_outside_is_harmless_in_the_branch_not_taken(self) -> None:
        cascade = parse("cascade(a[m]; t: float[:])\n  y[m] = where(m >= 1, t[m - 1], a[m])\n  -> y")
        assert interpret(cascade, {"a": np.full(3, 7.0), "t": np.arange(2.0)})["y"].tolist() == [7, 0, 1]

    def test_empty_table_is_harmless_where_masked(self) -> None:
        found = interpret(parse(self.CASCADE.format(where="  if m >= 9")), {"a": np.ones(3), "t": np.ones(0)})
        assert found["y"].tolist() == [0, 0, 0]

    def test_nested(self) -> None:
        cascade = parse("cascade(a[m]; t: float[:], at: int[:])\n  y[m] = t[at[m] + 1]\n  -> y")
        assert interpret(cascade, {"a": np.ones(2), "t": np.arange(4.0), "at": np.array([2, 0])})["y"].tolist() == [3, 1]

    def test_missing_elements_of_a_step_stay_missing(self) -> None:
        cascade = parse("cascade(a[m])\n  y[m] = a[m]  if m >= 1\n  z = sum[m] to_float(1 + 0 * m) + 0.0 * y[m]\n  -> z")
        assert interpret(cascade, {"a": np.ones(3)})["z"] == 2


class TestExtents:
    def test_axis_that_only_captures_have(self) -> None:
        cascade = parse("cascade(a[m], c[n]; u: float[:, :], t: float[:, :])\n  y[m,n] = sum[f] u[m,f] * t[n,f]\n  -> y")
        found = interpret(cascade, {"a": np.ones(2), "c": np.ones(3), "u": np.ones((2, 5)), "t": np.ones((3, 5))})
        np.testing.assert_array_equal(found["y"], np.full((2, 3), 5.0))

    def test_captures_disagree(self) -> None:
        cascade = parse("cascade(a[m], c[n]; u: float[:, :], t: float[:, :])\n  y[m,n] = sum[f] u[m,f] * t[n,f]\n  -> y")
        with pytest.raises(ShapeMismatch, match=r"5.*4"):
            interpret(cascade, {"a": np.ones(2), "c": np.ones(3), "u": np.ones((2, 5)), "t": np.ones((3, 4))})

    def test_arguments_disagree(self) -> None:
        with pytest.raises(ShapeMismatch, match=r"7.*5"):
            interpret(parse(SOFTMAX), {"q": np.ones((2, 3)), "k": np.ones((7, 3)), "v": np.ones((5, 3))})

    def test_wrong_rank(self) -> None:
        with pytest.raises(ShapeMismatch):
            interpret(parse(SOFTMAX), {"q": np.ones(3), "k": np.ones((7, 3)), "v": np.ones((7, 3))})

    def test_longer_table_is_read_in_part(self) -> None:
        cascade = parse("cascade(a[m]; t: float[:])\n  y[m] = a[m] + t[m]\n  -> y")
        assert interpret(cascade, {"a": np.zeros(2), "t": np.arange(5.0)})["y"].tolist() == [0, 1]

    def test_unknown_length(self) -> None:
        with pytest.raises(AxisError):
            axis_extents(parse("cascade(a[m])\n  y[m,z] = a[m] * to_float(z)\n  -> y"), {"a": (2,)})

    def test_missing_input(self) -> None:
        with pytest.raises(ArgumentError):
            interpret(parse(SOFTMAX), {"q": np.ones((2, 3))})


def test_float32_stays_float32() -> None:
    rng = np.random.default_rng(0)
    inputs = {"q": rng.normal(size=(4, 3)), "k": rng.normal(size=(5, 3)), "v": rng.normal(size=(5, 3))}
    single, double = interpret(parse(SOFTMAX), inputs, NumpyBackend(np.float32)), interpret(parse(SOFTMAX), inputs)
    assert single["o"].dtype == np.float32
    np.testing.assert_allclose(single["o"], double["o"], rtol=1e-5)

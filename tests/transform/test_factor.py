from __future__ import annotations

import numpy as np
import pytest

from attngen.ir.cascade import Cascade
from attngen.ir.eval.interpret import interpret
from attngen.ir.parser import parse
from attngen.transform.factor import factor

HEAD = "cascade(a[m,n], b[m,n], do[m,e], dz[m,e], v[n,e], c[m], w[n], lam[]; t: float[:])\n"


def cascade(steps: str, outputs: str = "y") -> Cascade:
    return parse(f"{HEAD}{steps}\n  -> {outputs}")


def assert_same_values(before: Cascade, after: Cascade) -> None:
    rng = np.random.default_rng(0)
    sizes = {"m": 3, "n": 4, "e": 2}
    values = {item.name: rng.normal(size=[sizes[axis] for axis in (("m",) if item.axes is None else item.axes)]) for item in before.inputs}
    first, second = interpret(before, values), interpret(after, values)
    for name in before.outputs:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-12, atol=1e-13)


CASES = {
    "scale": "  y[m,e] = sum[n] a[m,n] * 0.5 * v[n,e]",
    "row factor": "  y[m,n] = sum[e] do[m,e] * lam * c[m] * v[n,e]",
    "through a product": "  du[m,e] = do[m,e] * c[m]\n  y[m,n] = sum[e] du[m,e] * v[n,e]",
    "negated product": "  du[m,e] = -(do[m,e] * c[m])\n  y[m,n] = sum[e] du[m,e] * v[n,e]",
    "two row factors": "  y[m,n] = sum[e] do[m,e] * v[n,e] * c[m] + dz[m,e] * v[n,e]",
    "tile factors": "  y[m,n] = sum[e] do[m,e] * v[n,e] * a[m,n] - dz[m,e] * v[n,e] * b[m,n]",
    "columns of two products": "  y[n,e] = sum[m] do[m,e] * a[m,n] + dz[m,e] * a[m,n] * b[m,n]",
    "coefficient beside a sum": "  y[m,e] = sum[n] (a[m,n] + b[m,n]) * (2.0 * v[n,e])",
    "negative coefficient beside a sum": "  nv[n,e] = -v[n,e]\n  y[m,e] = sum[n] (a[m,n] + b[m,n]) * nv[n,e]",
    "squares": "  y[m,e] = sum[n] a[m,n] * a[m,n] * v[n,e] + a[m,n] * v[n,e]",
    "equal terms": "  y[m,e] = sum[n] a[m,n] * v[n,e] + v[n,e] * a[m,n]",
    "terms that cancel": "  y[m,e] = sum[n] a[m,n] * v[n,e] - v[n,e] * a[m,n]",
    "nothing to sum but a constant": "  y[m,e] = sum[n] do[m,e]  if m >= n",
    "masked": "  y[m,e] = sum[n] a[m,n] * c[m] * v[n,e]  if m >= n",
    "masked product": "  p[m,n] = a[m,n] * lam  if m >= n\n  y[m,e] = sum[n] p[m,n] * v[n,e]",
    "masked factor and another value": (
        "  p[m,n] = exp(a[m,n])  if m >= n\n  q[m,n] = sum[e] do[m,e] * v[n,e] * p[m,n]\n  r[m,n] = sum[e] dz[m,e] * v[n,e]\n"
        "  y[m,n] = q[m,n] + r[m,n]"
    ),
    "masked factor and another value in one sum": (
        "  p[m,n] = exp(a[m,n])  if m >= n\n  q[m,n] = sum[e] do[m,e] * v[n,e] * p[m,n]\n  y[m] = sum[n] q[m,n] * w[n] + b[m,n]"
    ),
    "masked factor that is an output": "  p[m,n] = exp(a[m,n])  if m >= n\n  y[m,n] = sum[e] do[m,e] * v[n,e] * p[m,n]",
    "copies": "  x[m,n] = a[m,n]\n  y[m,e] = sum[n] x[m,n] * v[n,e]",
    "integers": "  k[m] = sum[n] 2 * n  if m >= n\n  y[m] = c[m] * k[m]",
    "maximum": "  y[m] = max[n] a[m,n] * 2.0 * c[m]",
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_kept(name: str) -> None:
    before = cascade(CASES[name])
    after = factor(before)
    assert_same_values(before, after)
    assert parse(str(after)) == after
    assert factor(after) == after


def test_scales_leave_sums() -> None:
    assert [str(step) for step in factor(cascade(CASES["row factor"])).steps] == [
        "y_sum[m,n] = sum[e] do[m,e] * v[n,e]",
        "y[m,n] = y_sum[m,n] * (lam * c[m])",
    ]


def test_sums_that_differ_by_a_factor_become_one() -> None:
    after = factor(cascade("  y[m,n] = sum[e] do[m,e] * c[m] * v[n,e]\n  z[m,n] = sum[e] do[m,e] * lam * v[n,e]", "y, z"))
    assert sum(step.reduce is not None for step in after.steps) == 1


def test_what_differs_on_one_side_is_added_first() -> None:
    (step, *_) = factor(cascade(CASES["two row factors"])).steps
    assert str(step) == "y[m,n] = sum[e] v[n,e] * (do[m,e] * c[m] + dz[m,e])"


@pytest.mark.parametrize("name", ["tile factors", "columns of two products"])
def test_products_of_their_own_are_summed_apart(name: str) -> None:
    reductions = [step for step in factor(cascade(CASES[name])).steps if step.reduce is not None]
    assert len(reductions) == 2
    assert not any("+" in str(step) for step in reductions)


TOGETHER = {
    "weights and values": "  y[n] = sum[m,e] do[m,e] * v[n,e] * a[m,n]",
    "coefficients": "  y[n] = sum[m,e] do[m,e] * v[n,e] * a[m,n] * -2.0 - dz[m,e] * v[n,e] * b[m,n] * 0.5",
    "under a mask": "  y[n] = sum[m,e] do[m,e] * v[n,e] * a[m,n]  if m >= n",
    "of one side": "  y[n] = sum[m,e] do[m,e] * v[n,e]",
    "a term without features": "  y[n] = sum[m,e] do[m,e] * v[n,e] * a[m,n] + a[m,n]",
}


@pytest.mark.parametrize("name", TOGETHER)
def test_products_over_features_come_first(name: str) -> None:
    before = cascade(TOGETHER[name])
    after = factor(before, ("e",))
    assert_same_values(before, after)
    if name in ("weights and values", "coefficients", "under a mask"):
        assert not any(len({*step.axes, *step.over} & {"m", "n", "e"}) > 2 and len(step.over) > 1 for step in after.steps)

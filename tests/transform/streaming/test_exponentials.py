"""What becomes of exponentials and logarithms of running values, as text."""

from __future__ import annotations

import pytest

from attngen.ir.parser import parse
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.streaming import streaming
from tests.transform.laws import Point, assert_values

HEAD = """cascade(q[b,h,m,d], k[b,h,n,d], v[b,h,n,e], c[b,h,m])
  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
  lse[b,h,m] = logsumexp[n] s[b,h,m,n]
"""
BODIES = {
    "softmax": "exp(s[b,h,m,n] - lse[b,h,m])",
    "in base 2": "exp2(1.4426950408889634 * (s[b,h,m,n] - lse[b,h,m]))",
    "squared": "exp(2.0 * s[b,h,m,n] - 2.0 * lse[b,h,m])",
    "with a value of the row": "exp(s[b,h,m,n] - lse[b,h,m] + c[b,h,m])",
    "logarithm of a weight": "log(exp(s[b,h,m,n] - lse[b,h,m])) * 0.5",
    "entropy": "exp(s[b,h,m,n] - lse[b,h,m]) * (s[b,h,m,n] - lse[b,h,m])",
    "a distance, scaled": "exp(s[b,h,m,n] - lse[b,h,m]) * (3.0 * s[b,h,m,n] - 3.0 * lse[b,h,m] + c[b,h,m])",
    "a logarithm in the exponent": "exp(s[b,h,m,n] - lse[b,h,m] + log(1.0 + c[b,h,m] * c[b,h,m]))",
    "another exponent": "exp(0.5 * s[b,h,m,n] - lse[b,h,m])",
    "a quotient": "exp((s[b,h,m,n] - lse[b,h,m]) / (1.0 + c[b,h,m] * c[b,h,m]))",
}


def text(body: str) -> str:
    return f"{HEAD}  p[b,h,m,n] = {body}\n  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,h,n,e]\n  -> o"


@pytest.mark.parametrize("name", BODIES)
def test_the_rewritten_sum_is_the_sum(name: str) -> None:
    assert_values(text(BODIES[name]), Point(), random_gauge=False)
    assert_values(text(BODIES[name]), Point(), random_gauge=True, tolerance=1e-10)


def steps(body: str) -> list[str]:
    return [str(step) for step in streaming(canonicalize(parse(text(body))), "m", "n").cascade.steps]


def test_softmax_weights_are_those_of_the_gauge() -> None:
    found = steps("exp(s[b,h,m,n] - lse[b,h,m])")
    assert "acc[b,h,m,e] = sum[n] w[b,h,m,n] * v[b,h,n,e]" in found
    assert found[-1] == "o[b,h,m,e] = safe_div(acc[b,h,m,e], l_i[b,h,m])"


def test_a_whole_multiple_is_a_power_of_the_weight() -> None:
    """No second gauge, and no second exponential."""
    found = steps("exp(2.0 * s[b,h,m,n] - 2.0 * lse[b,h,m])")
    assert sum("exp(" in step for step in found) == 1
    assert "acc[b,h,m,e] = sum[n] w[b,h,m,n] * w[b,h,m,n] * v[b,h,n,e]" in found


def test_another_multiple_has_a_gauge_of_its_own() -> None:
    found = steps("exp(0.5 * s[b,h,m,n] - lse[b,h,m])")
    assert sum(step.startswith("w") for step in found) == 2
    assert any("where(" in step and "-inf" in step for step in found), "a row without keys gives 0, not exp(-inf + inf)"


def test_a_logarithm_in_an_exponent_is_a_factor() -> None:
    found = steps("exp(s[b,h,m,n] - lse[b,h,m] + log(1.0 + c[b,h,m] * c[b,h,m]))")
    assert sum("exp(" in step for step in found) == 1


def test_differences_are_measured_from_the_gauge() -> None:
    """No digits are lost where scores are large: x - lse is y - log(l), with y = x - m."""
    found = steps("exp(s[b,h,m,n] - lse[b,h,m]) * (s[b,h,m,n] - lse[b,h,m])")
    assert "y[b,h,m,n] = s[b,h,m,n] - m_i[b,h,m]" in found
    assert "acc[b,h,m,e] = sum[n] w[b,h,m,n] * y[b,h,m,n] * v[b,h,n,e]" in found

from __future__ import annotations

import pytest

from attngen.analysis.pass_count import pass_count, sweeps
from attngen.ir.parser import parse
from tests.variants import ALL, DIFFERENTIAL, SOFTMAX

STABLE = """
cascade(q[p,e], k[m,e], v[m,f])
  s[m,p] = sum[e] q[p,e] * k[m,e]
  gm[p] = max[m] s[m,p]
  sn[m,p] = exp(s[m,p] - gm[p])
  sd[p] = sum[m] sn[m,p]
  {division}
  -> av
"""
THREE = STABLE.format(division="a[m,p] = sn[m,p] / sd[p]\n  av[p,f] = sum[m] a[m,p] * v[m,f]")
DEFERRED = STABLE.format(division="u[p,f] = sum[m] sn[m,p] * v[m,f]\n  av[p,f] = u[p,f] / sd[p]")
BACKWARD = """
cascade(s[m,n], lse[m], v[n,e], o[m,e], do[m,e], k[n,d])
  p[m,n] = exp(s[m,n] - lse[m])
  dp[m,n] = sum[e] do[m,e] * v[n,e]
  delta[m] = {delta}
  ds[m,n] = p[m,n] * (dp[m,n] - delta[m])
  dq[m,d] = sum[n] ds[m,n] * k[n,d]
  -> dq
"""


def test_three_pass_softmax() -> None:
    assert sweeps(parse(THREE), "m") == {"gm": 1, "sd": 2, "av": 3}
    assert pass_count(parse(THREE), "m") == 3


def test_deferred_division_saves_a_pass() -> None:
    assert sweeps(parse(DEFERRED), "m") == {"gm": 1, "sd": 2, "u": 2}


def test_separable_reductions_cost_nothing() -> None:
    assert pass_count(parse(THREE), "m", {"sd", "av"}) == 1
    assert pass_count(parse(THREE), "m", {"sd"}) == 2


def test_factoring_saves_a_pass() -> None:
    assert pass_count(parse("cascade(a[k], b[k])\n  y = sum[k] a[k] * b[k]\n  z = sum[k] y * a[k]\n  -> z"), "k") == 2
    assert pass_count(parse("cascade(a[k], b[k])\n  y = sum[k] a[k] * b[k]\n  x = sum[k] a[k]\n  z = x * y\n  -> z"), "k") == 1


def test_delta_from_the_output_saves_a_pass_of_the_backward() -> None:
    assert pass_count(parse(BACKWARD.format(delta="sum[n] p[m,n] * dp[m,n]")), "n") == 2
    assert pass_count(parse(BACKWARD.format(delta="sum[e] do[m,e] * o[m,e]")), "n") == 1


def test_output_that_carries_the_axis_counts() -> None:
    text = "cascade(a[m,n])\n  l[m] = sum[n] a[m,n]\n  p[m,n] = a[m,n] / l[m]\n  -> p"
    assert sweeps(parse(text), "n") == {"l": 1, "p": 2}


def test_another_position_of_the_axis_waits_for_the_whole() -> None:
    text = "cascade(a[m,n])\n  x[m,n] = exp(a[m,n])\n  y[m] = sum[n] x[m,n] * x[m,(n + 1) % extent(n)]\n  -> y"
    assert pass_count(parse(text), "n") == 2


def test_axis_that_nothing_runs_along() -> None:
    assert pass_count(parse(SOFTMAX), "z") == 0


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_every_variant_is_one_pass_when_all_separate(text: str) -> None:
    cascade = parse(text)
    reductions = {step.name for step in cascade.steps if "n" in step.over}
    assert pass_count(cascade, "n", reductions) == 1


def test_differential_needs_two_without_credit() -> None:
    assert pass_count(parse(DIFFERENTIAL), "n") == 2

"""What is finite behind the end of an axis, and what is 0 where a mask fails, told from the text."""

from __future__ import annotations

import pytest

from attngen.analysis.predicates import contributions, guards
from attngen.emit.known_zero import Zeros
from attngen.ir.expr import Index
from attngen.ir.parser import parse
from attngen.pipeline import analyse

SOFTMAX = """cascade(q[b,m,d], k[b,n,d], v[b,n,e], z[b,n], y[b,m]; t: float[:], i: int[:], c: float[])
  kk[b,n] = sum[d] k[b,n,d] * k[b,n,d]
  r[b,n] = {right}
  s[b,m,n] = sum[d] q[b,m,d] * k[b,n,d]
  x[b,m,n] = s[b,m,n] * 0.25{mask}
  lse[b,m] = logsumexp[n] x[b,m,n]
  p[b,m,n] = exp(x[b,m,n] - lse[b,m])
  u[b,n,e] = v[b,n,e] * r[b,n]
  o[b,m,e] = sum[n] p[b,m,n] * u[b,n,e]
  -> o"""


def zeros(right: str, mask: str = "") -> Zeros:
    kernel = analyse(parse(SOFTMAX.format(right=right, mask=mask)), wanted=frozenset()).kernels[0]
    exists = guards(kernel.cascade)
    return Zeros(kernel, {step.name: contributions(step, exists) for step in kernel.steps})


@pytest.mark.parametrize(
    ("right", "settled"),
    [
        ("z[b,n]", True),
        ("1.0 / z[b,n]", False),
        ("z[b,n] / z[b,n]", False),
        ("1.0 / (z[b,n] + 0.001)", True),
        ("1.0 / (z[b,n] + 1e-30)", False),
        ("1.0 / (z[b,n] + 1e-60)", False),
        ("1.0 / (z[b,n] - 1.0)", True),
        ("1.0 / (exp(z[b,n]) - 1.0)", False),
        ("log(z[b,n])", False),
        ("log(1.0 + z[b,n])", True),
        ("z[b,n] * log(z[b,n] + 1.0)", True),
        ("z[b,n] ** -0.5", False),
        ("z[b,n] ** 0.5", True),
        ("rsqrt(kk[b,n])", False),
        ("rsqrt(kk[b,n] + 1e-6)", True),
        ("safe_div(1.0, z[b,n])", True),
        ("where(z[b,n] > 0.5, 1.0 / z[b,n], 0.0)", True),
        ("exp(z[b,n] * 1000.0)", True),
        ("exp(z[b,n] + 1000.0)", False),
        ("exp(c)", True),
        ("1.0 / c", True),
        ("exp(z[b,n] + c)", False),
        ("z[b,n] / c", False),
        ("t[i[n]]", True),
        ("1.0 / t[i[n]]", False),
        ("1.0 / t[n]", False),
        ("sigmoid(t[i[n]]) * c", True),
        ("tanh(z[b,n]) / 2.0", True),
        ("to_float(n) * 2.0", True),
        ("1.0 / n", False),
    ],
)
def test_behind_the_end(right: str, settled: bool):
    found = zeros(right)
    (step,) = (step for step in found.kernel.steps if step.name in ("u", "o", "acc") and step.reduce == "sum")
    assert found.is_settled(found.steps["u"].body if "u" in found.steps else step.body, "n") == settled
    assert Index("n") in found.steps["u"].body.args[0].at


@pytest.mark.parametrize(
    ("mask", "doubtful"),
    [("", False), ("  if m >= n", False), ("  if n < 3 and m >= n", True), ("  if i[n] == 2", True), ("  if m >= n or n < 3", False)],
)
def test_memory_that_may_hold_anything(mask: str, doubtful: bool):
    """Scores of keys that a mask takes away by themselves; v is cleared, where that is free or needed."""
    found = zeros("1.0", mask)
    assert found.is_doubtful(found.steps["s"].body, found.exists["w"]) == doubtful
    assert found.is_finite(found.steps["s"].body, found.exists["w"]) != doubtful

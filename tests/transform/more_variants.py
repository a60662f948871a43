"""Cascades beyond `tests.variants`: other normalisers, several softmaxes, reductions of higher rank."""

from __future__ import annotations

from tests.transform.laws import Point
from tests.transform.masked_variants import LENGTHS, MASKED, SCORE_SHAPES, SCORES, SOFTMAX, after_softmax, attention, pair, scored

__all__ = [
    "ALL",
    "HIGHER_RANKS",
    "LENGTHS",
    "MASKED",
    "NORMALISERS",
    "SCORES",
    "SCORE_SHAPES",
    "SOFTMAX",
    "after_softmax",
    "attention",
    "pair",
    "scored",
]

NORMALISERS = {
    "squared_relu": (
        attention(SCORES + "  a[b,g,r,m,n] = relu(s[b,g,r,m,n])\n  o[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * a[b,g,r,m,n] * v[b,g,n,e]\n", "o"),
        Point(),
    ),
    "sum_of_values": ("cascade(q[b,m,d], v[b,n,e])\n  o[b,m,e] = sum[n] v[b,n,e]  if m >= n\n  -> o", Point()),
    "own_maximum": (
        attention(
            SCORES
            + """  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if m >= n
  mx[b,g,r,m] = max[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - mx[b,g,r,m])
  l[b,g,r,m] = sum[n] p[b,g,r,m,n]
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e] / l[b,g,r,m]
""",
            "o",
        ),
        Point(),
    ),
    "own_logsumexp": (
        attention(
            SCORES
            + """  mx[b,g,r,m] = max[n] s[b,g,r,m,n]
  l[b,g,r,m] = sum[n] exp(s[b,g,r,m,n] - mx[b,g,r,m])
  lse[b,g,r,m] = mx[b,g,r,m] + log(l[b,g,r,m])
  p[b,g,r,m,n] = exp(s[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
  h[b,g,r,m] = sum[n] p[b,g,r,m,n] * (lse[b,g,r,m] - s[b,g,r,m,n])
""",
            "o, lse, h",
        ),
        Point(),
    ),
    "masked_own_maximum_and_logsumexp": (
        attention(
            SCORES
            + """  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if n < lengths[b]
  mx[b,g,r,m] = max[n] x[b,g,r,m,n]
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  a[b,g,r,m,n] = exp(x[b,g,r,m,n] - mx[b,g,r,m])
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  u[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * v[b,g,n,e]
  o[b,g,r,m,e] = safe_div(u[b,g,r,m,e], l[b,g,r,m])
""",
            "o, lse",
            captures="lengths: int[:]",
        ),
        LENGTHS,
    ),
    "no_maximum": (
        attention(
            SCORES
            + """  a[b,g,r,m,n] = exp(s[b,g,r,m,n] * 0.5)
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  o[b,g,r,m,e] = sum[n] a[b,g,r,m,n] / l[b,g,r,m] * v[b,g,n,e]
""",
            "o",
        ),
        Point(),
    ),
    "lse_in_other_expressions": (
        after_softmax(
            "  z[b,g,r,m] = lse[b,g,r,m] * lse[b,g,r,m] - tanh(lse[b,g,r,m])\n  y[b,g,r,m,e] = o[b,g,r,m,e] * sigmoid(lse[b,g,r,m])\n",
            "lse, z, y",
            mask="m + 3 >= n",
        ),
        Point(),
    ),
    "temperature_two": (after_softmax("  z[b,g,r,m,e] = sum[n] exp(2.0 * (x[b,g,r,m,n] - lse[b,g,r,m])) * v[b,g,n,e]\n", "o, z"), Point()),
    "temperature_half": (
        after_softmax(
            "  z[b,g,r,m,e] = sum[n] exp((x[b,g,r,m,n] - lse[b,g,r,m]) / 2) * v[b,g,n,e]\n",
            "o, z",
            mask="n < lengths[b]",
            captures="lengths: int[:]",
        ),
        LENGTHS,
    ),
    "learned_temperature": (
        after_softmax(
            "  z[b,g,r,m,e] = sum[n] exp(temp[b,m] * (x[b,g,r,m,n] - lse[b,g,r,m])) * v[b,g,n,e]\n",
            "o, z",
            ", temp[b,m]",
            "lengths: int[:]",
            mask="n < lengths[b]",
        ),
        LENGTHS,
    ),
    "shifted_logsumexp": (
        after_softmax(
            "  c[b,g,r,m] = lse[b,g,r,m] + sink[g]\n  z[b,g,r,m,e] = sum[n] exp(x[b,g,r,m,n] - c[b,g,r,m]) * v[b,g,n,e]\n",
            "o, z",
            captures="sink: float[:], lengths: int[:]",
            mask="n < lengths[b]",
        ),
        LENGTHS,
    ),
    "shift_by_the_mean": (
        after_softmax(
            "  mean[b,g,r,m] = sum[n] x[b,g,r,m,n] / extent(n)\n  z[b,g,r,m,e] = sum[n] exp(x[b,g,r,m,n] - mean[b,g,r,m]) * v[b,g,n,e]\n",
            "o, z",
        ),
        Point(),
    ),
    "masked_sink": (
        attention(
            SCORES
            + """  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if n < lengths[b]
  lse0[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  lse[b,g,r,m] = logaddexp(sink[g], lse0[b,g,r,m])
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
""",
            "o, lse0, lse",
            captures="sink: float[:], lengths: int[:]",
        ),
        LENGTHS,
    ),
    "sink_that_some_heads_lack": (
        attention(
            SCORES
            + """  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5
  c[g] = where(g > 0, sink[g], -inf)
  lse0[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  lse[b,g,r,m] = logaddexp(lse0[b,g,r,m], c[g])
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
""",
            "o, lse",
            captures="sink: float[:]",
        ),
        Point(),
    ),
    "joint_softmax": (
        pair(
            ("m >= n", ""),
            """  lse[b,g,r,m] = logaddexp(lse1[b,g,r,m], lse2[b,g,r,m])
  o1[b,g,r,m,e] = sum[n] exp(x1[b,g,r,m,n] - lse[b,g,r,m]) * v[b,g,n,e]
  o2[b,g,r,m,e] = sum[n] exp(x2[b,g,r,m,n] - lse[b,g,r,m]) * v[b,g,n,e]
  o[b,g,r,m,e] = o1[b,g,r,m,e] + o2[b,g,r,m,e] * lam
""",
            "o, lse",
        ),
        Point(),
    ),
    "differential_with_one_mask": (
        pair(
            ("m >= n", "m >= n"),
            "  p[b,g,r,m,n] = p1[b,g,r,m,n] - lam * p2[b,g,r,m,n]\n  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]\n",
            "o, lse1",
        ),
        Point(),
    ),
    "differential_with_two_masks": (
        pair(
            ("m >= n", "n >= m"),
            """  o1[b,g,r,m,e] = sum[n] p1[b,g,r,m,n] * v[b,g,n,e]
  o2[b,g,r,m,e] = sum[n] p2[b,g,r,m,n] * v[b,g,n,e]
  o[b,g,r,m,e] = o1[b,g,r,m,e] - lam * o2[b,g,r,m,e]
""",
        ),
        Point(),
    ),
    "product_of_softmaxes": (
        pair(("m >= n", "n < 5"), "  o[b,g,r,m,e] = sum[n] p1[b,g,r,m,n] * p2[b,g,r,m,n] * v[b,g,n,e] * lam\n"),
        Point(),
    ),
    "divergence": (
        pair(("m >= n", "m >= n"), "  o[b,g,r,m] = sum[n] p1[b,g,r,m,n] * (log(p1[b,g,r,m,n]) - lam * log(p2[b,g,r,m,n]))\n"),
        Point(),
    ),
    "one_exponent_under_two_masks": (
        attention(
            SCORES
            + """  lse1[b,g,r,m] = logsumexp[n] s[b,g,r,m,n]
  lse2[b,g,r,m] = logsumexp[n] s[b,g,r,m,n]  if m >= n
  o1[b,g,r,m,e] = sum[n] exp(s[b,g,r,m,n] - lse1[b,g,r,m]) * v[b,g,n,e]
  o2[b,g,r,m,e] = sum[n] exp(s[b,g,r,m,n] - lse2[b,g,r,m]) * v[b,g,n,e]  if m >= n
  o3[b,g,r,m,e] = sum[n] exp(s[b,g,r,m,n] - lse1[b,g,r,m]) * v[b,g,n,e]  if m >= n
  o4[b,g,r,m,e] = sum[n] exp(s[b,g,r,m,n] - lse2[b,g,r,m]) * v[b,g,n,e]
""",
            "o1, o2, o3, o4, lse2",
        ),
        Point(),
    ),
    "two_temperatures_of_one_score": (
        attention(
            SCORES
            + """  x1[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if m >= n
  x2[b,g,r,m,n] = s[b,g,r,m,n] * exp(temp)  if m >= n
  lse1[b,g,r,m] = logsumexp[n] x1[b,g,r,m,n]
  lse2[b,g,r,m] = logsumexp[n] x2[b,g,r,m,n]
  o[b,g,r,m,e] = sum[n] exp(x1[b,g,r,m,n] - lse1[b,g,r,m]) * v[b,g,n,e]
  z[b,g,r,m,e] = sum[n] exp(x2[b,g,r,m,n] - lse2[b,g,r,m]) * v[b,g,n,e] * s[b,g,r,m,n]
""",
            "o, z",
            captures="temp: float[]",
        ),
        Point(),
    ),
    "division_inside_of_the_sum": (
        attention(
            SCORES
            + """  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5  if n < lengths[b]
  mx[b,g,r,m] = max[n] x[b,g,r,m,n]
  l[b,g,r,m] = sum[n] exp(x[b,g,r,m,n] - mx[b,g,r,m])
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - mx[b,g,r,m]) / l[b,g,r,m]
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
""",
            "o",
            captures="lengths: int[:]",
        ),
        LENGTHS,
    ),
    "unbounded_factors_of_empty_rows": (
        after_softmax(
            """  t[b,g,r,m] = sum[n] p[b,g,r,m,n] * gate[b,g,n] * gate[b,g,n]
  y[b,g,r,m] = sum[n] p[b,g,r,m,n] * lse[b,g,r,m] * temp[b,g,m]
  z[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e] * rsqrt(t[b,g,r,m]) * temp[b,g,m]
""",
            "y, z",
            ", gate[b,g,n], temp[b,g,m]",
            "lengths: int[:]",
            mask="n < lengths[b]",
        ),
        LENGTHS,
    ),
    "scores_that_are_relus_under_a_mask": (scored("relu(s[b,g,r,m,n])  if m >= n"), Point()),
    "running_norm_of_output": (
        after_softmax(
            "  ms[b,g,r,m] = sum[e] o[b,g,r,m,e] * o[b,g,r,m,e]\n  z[b,g,r,m,e] = o[b,g,r,m,e] * rsqrt(ms[b,g,r,m] + 0.1) * weight[e]\n",
            "z",
            captures="weight: float[:]",
            mask="m >= n",
        ),
        Point(captures={"weight": (6,)}),
    ),
}

HIGHER_RANKS = {
    "entropy_masked": (
        after_softmax(
            "  h[b,g,r,m] = sum[n] -(p[b,g,r,m,n] * log(p[b,g,r,m,n]))\n",
            "o, h",
            mask="m >= n and n < lengths[b]",
            captures="lengths: int[:]",
        ),
        LENGTHS,
    ),
    "entropy_with_a_prior": (
        after_softmax(
            "  h[b,g,r,m] = sum[n] p[b,g,r,m,n] * (x[b,g,r,m,n] - lse[b,g,r,m] + col[b,n])\n",
            "o, h",
            captures="col: float[:, :]",
            mask="m >= n",
        ),
        Point(),
    ),
    "squared_surprise": (
        after_softmax("  h[b,g,r,m] = sum[n] p[b,g,r,m,n] * (x[b,g,r,m,n] - lse[b,g,r,m]) ** 2\n", "o, h", mask="m >= n"),
        Point(),
    ),
    "variance": (
        attention(
            SCORES
            + """  mean[b,g,r,m] = sum[n] s[b,g,r,m,n] / extent(n)
  var[b,g,r,m] = sum[n] (s[b,g,r,m,n] - mean[b,g,r,m]) ** 2
""",
            "mean, var",
        ),
        Point(),
    ),
    "weighted_variance": (
        after_softmax(
            """  mu[b,g,r,m] = sum[n] p[b,g,r,m,n] * t[b,g,n]
  var[b,g,r,m] = sum[n] p[b,g,r,m,n] * (t[b,g,n] - mu[b,g,r,m]) * (t[b,g,n] - mu[b,g,r,m])
""",
            "o, var",
            ", t[b,g,n]",
            mask="m >= n",
        ),
        Point(),
    ),
    "tangent": (
        after_softmax(
            """  t[b,g,r,m,n] = sum[d] tq[b,g,r,m,d] * k[b,g,n,d]
  mu[b,g,r,m] = sum[n] p[b,g,r,m,n] * t[b,g,r,m,n]
  z[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * (t[b,g,r,m,n] - mu[b,g,r,m]) * v[b,g,n,e]
""",
            "o, z",
            ", tq[b,g,r,m,d]",
            mask="m >= n",
        ),
        Point(),
    ),
    "one_pass_dq": (
        after_softmax(
            """  dp[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]
  delta[b,g,r,m] = sum[n] p[b,g,r,m,n] * dp[b,g,r,m,n]
  dq[b,g,r,m,d] = sum[n] p[b,g,r,m,n] * (dp[b,g,r,m,n] - delta[b,g,r,m]) * k[b,g,n,d]
""",
            "dq",
            ", do[b,g,r,m,e]",
            mask="m >= n",
        ),
        Point(),
    ),
}

ALL = {**MASKED, **SCORE_SHAPES, **NORMALISERS, **HIGHER_RANKS}

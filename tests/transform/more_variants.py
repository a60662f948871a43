"""Cascades beyond `tests.variants`: masks of every kind, several normalisers, scores of every shape."""

from __future__ import annotations

import torch

from tests.transform.laws import Point

SCORES = "  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]\n"
SOFTMAX = """  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
"""
LENGTHS = Point(given={"lengths": torch.tensor([0, 4])})
# With minus infinity as a number, rows without any key are NaN before their masks are lifted.
NOT_EMPTY = Point(given={"lengths": torch.tensor([1, 4])})


def attention(body: str, outputs: str, arguments: str = "", captures: str = "") -> str:
    """A cascade over q, k, v with grouped heads."""
    tail = f"; {captures}" if captures else ""
    return f"cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]{arguments}{tail})\n{body}  -> {outputs}"


def scored(score: str, outputs: str = "o, lse", arguments: str = "", captures: str = "") -> str:
    """Softmax attention with a score and maybe a mask."""
    return attention(f"{SCORES}  x[b,g,r,m,n] = {score}\n{SOFTMAX}", outputs, arguments, captures)


def pair(masks: tuple[str, str], rest: str, outputs: str = "o") -> str:
    """Two softmaxes over different scores."""
    first, second = (f"  if {mask}" if mask else "" for mask in masks)
    return attention(
        SCORES
        + f"""  x1[b,g,r,m,n] = s[b,g,r,m,n] * 0.5{first}
  x2[b,g,r,m,n] = s[b,g,r,m,n] * s[b,g,r,m,n] * -0.125{second}
  lse1[b,g,r,m] = logsumexp[n] x1[b,g,r,m,n]
  lse2[b,g,r,m] = logsumexp[n] x2[b,g,r,m,n]
  p1[b,g,r,m,n] = exp(x1[b,g,r,m,n] - lse1[b,g,r,m])
  p2[b,g,r,m,n] = exp(x2[b,g,r,m,n] - lse2[b,g,r,m])
{rest}""",
        outputs,
        captures="lam: float[]",
    )


def after_softmax(rest: str, outputs: str, arguments: str = "", captures: str = "", mask: str = "") -> str:
    """Softmax attention, and more steps."""
    where = f"  if {mask}" if mask else ""
    return attention(f"{SCORES}  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5{where}\n{SOFTMAX}{rest}", outputs, arguments, captures)


MASKED = {
    "causal": (scored("s[b,g,r,m,n] * 0.5  if m >= n"), Point()),
    "causal_bottom_right_short": (scored("s[b,g,r,m,n] * 0.5  if m + extent(n) - extent(m) >= n"), Point(sizes={"m": 7, "n": 3})),
    "window": (scored("s[b,g,r,m,n] * 0.5  if m >= n and m - n < w", captures="w: int"), Point(given={"w": 2})),
    "lengths": (scored("s[b,g,r,m,n] * 0.5  if n < lengths[b]", captures="lengths: int[:]"), LENGTHS),
    "lengths_of_rows": (scored("s[b,g,r,m,n] * 0.5  if n < lengths[b] and m < lengths[b]", captures="lengths: int[:]"), LENGTHS),
    "documents": (
        scored("s[b,g,r,m,n] * 0.5  if doc[b,m] == doc[b,n]", captures="doc: int[:, :]"),
        Point(given={"doc": torch.tensor([[0, 0, 1, 1, 2, 2, 3], [9, 0, 0, 1, 1, 1, 1]])}),
    ),
    "of_the_score": (scored("s[b,g,r,m,n] * 0.5  if s[b,g,r,m,n] > 0.5"), Point()),
    "as_infinity": (scored("where(m >= n, s[b,g,r,m,n] * 0.5, -inf)"), Point()),
    "as_infinity_scaled": (scored("where(m < n, -inf, s[b,g,r,m,n]) * 0.5 - 1.0"), Point()),
    "as_infinity_with_lengths": (
        scored("where(n < lengths[b], s[b,g,r,m,n], -inf) + slopes[g * extent(r) + r] * n", captures="lengths: int[:], slopes: float[:]"),
        NOT_EMPTY,
    ),
    "as_an_infinite_column": (
        attention(
            SCORES + "  c[b,n] = where(n < lengths[b], col[b,n], -inf)\n  x[b,g,r,m,n] = s[b,g,r,m,n] + c[b,n]\n" + SOFTMAX,
            "o, lse",
            captures="lengths: int[:], col: float[:, :]",
        ),
        NOT_EMPTY,
    ),
    "as_a_step": (
        attention(
            "  ok[b,m,n] = m >= n and n < lengths[b]\n" + SCORES + "  x[b,g,r,m,n] = s[b,g,r,m,n]  if ok[b,m,n]\n" + SOFTMAX,
            "o, lse",
            captures="lengths: int[:]",
        ),
        LENGTHS,
    ),
    "nothing": (scored("s[b,g,r,m,n] * 0.5  if n < 0 * extent(n)"), Point()),
    "on_the_weights": (
        attention(
            SCORES
            + """  a[b,g,r,m,n] = relu(s[b,g,r,m,n])  if m >= n
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  u[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * v[b,g,n,e]
  o[b,g,r,m,e] = safe_div(u[b,g,r,m,e], l[b,g,r,m])
""",
            "o",
        ),
        Point(),
    ),
    "on_the_sum": (
        attention(
            SCORES + "  o[b,g,r,m,e] = sum[n] s[b,g,r,m,n] * v[b,g,n,e]  if m >= n\n  t[b,g,r,m] = sum[n] s[b,g,r,m,n]  if n > 2\n", "o, t"
        ),
        Point(),
    ),
    "on_a_row": (
        after_softmax("  z[b,g,r,m,e] = o[b,g,r,m,e] * gate[b,m]  if m < lengths[b]\n", "z", ", gate[b,m]", "lengths: int[:]"),
        LENGTHS,
    ),
}

SCORE_SHAPES = {
    "softcap": (scored("20.0 * tanh(s[b,g,r,m,n] * 0.5 / 20.0)  if m >= n"), Point()),
    "gate_per_key": (scored("s[b,g,r,m,n] * sigmoid(gate[b,g,n]) + gate[b,g,n]", arguments=", gate[b,g,n]"), Point()),
    "gate_on_weights": (
        after_softmax("  z[b,g,r,m] = sum[n] p[b,g,r,m,n] * tanh(gate[b,g,n])\n", "o, z", ", gate[b,g,n]", mask="m >= n"),
        Point(),
    ),
    "contraction_of_captures": (
        attention(
            SCORES
            + "  rel[b,m,n] = sum[f] rows[b,m,f] * cols[b,n,f]\n  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.5 + rel[b,m,n]  if m >= n\n"
            + SOFTMAX,
            "o, lse",
            captures="rows: float[:, :, :], cols: float[:, :, :]",
        ),
        Point(captures={"rows": (2, 5, 3), "cols": (2, 7, 3)}),
    ),
    "integer_table": (
        scored(
            "s[b,g,r,m,n] * 0.5 + bias[bucket[m - n + extent(n)]] + rel[b] * 0.1", captures="bucket: int[:], bias: float[:], rel: int[:]"
        ),
        Point(captures={"bucket": (12,), "bias": (3,), "rel": (2,)}),
    ),
    "leaky": (scored("where(s[b,g,r,m,n] > 0.0, s[b,g,r,m,n], 0.1 * s[b,g,r,m,n])"), Point()),
    "clipped": (scored("min(max(s[b,g,r,m,n], -1.0), 1.0)"), Point()),
    "square_root_where_legal": (scored("where(s[b,g,r,m,n] > 0.0, sqrt(s[b,g,r,m,n]), s[b,g,r,m,n])"), Point()),
    "logarithm_of_distance": (scored("s[b,g,r,m,n] * 0.5 - log(1.0 + abs(m - n)) * exp(temp)", captures="temp: float[]"), Point()),
    "single_group": (scored("s[b,g,r,m,n] * 0.5  if m >= n"), Point(sizes={"r": 1})),
    "many_groups": (scored("s[b,g,r,m,n] * 0.5  if m >= n"), Point(sizes={"r": 3, "g": 1})),
    "one_key": (scored("s[b,g,r,m,n] * 0.5"), Point(sizes={"n": 1})),
    "shared_keys": (
        """cascade(q[b,g,r,m,d], k[g,n,d], v[n,e]; slopes: float[:])
  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[g,n,d]
  x[b,g,r,m,n] = s[b,g,r,m,n] + slopes[g] * n  if m >= n
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[n,e]
  -> o, lse""",
        Point(),
    ),
    "scores_without_batch": (
        """cascade(q[h,m,d], k[h,n,d], v[b,h,n,e]; lengths: int[:])
  s[h,m,n] = sum[d] q[h,m,d] * k[h,n,d]
  lse[b,h,m] = logsumexp[n] s[h,m,n]  if n < lengths[b]
  p[b,h,m,n] = exp(s[h,m,n] - lse[b,h,m])  if n < lengths[b]
  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,h,n,e]
  -> o, lse""",
        LENGTHS,
    ),
    "bias_as_argument": (scored("s[b,g,r,m,n] + bias[r,m,n]", arguments=", bias[r,m,n]"), Point()),
    "per_head_argument_twice": (
        attention(
            "  y[b,g,r,n] = lam[g,r] * col[b,n]\n"
            + SCORES
            + "  x[b,g,r,m,n] = s[b,g,r,m,n] * lam[g,r] + y[b,g,r,n]\n"
            + SOFTMAX
            + "  z[b,g,r,m,e] = o[b,g,r,m,e] * lam[g,r]\n",
            "z, lse",
            arguments=", lam[g,r]",
            captures="col: float[:, :]",
        ),
        Point(),
    ),
}

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

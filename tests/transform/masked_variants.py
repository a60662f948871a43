"""Softmax attention with masks of every kind and scores of every shape, and what its text is made of."""

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

"""Cascades in text, one for each kind of normalisation: what the transform tests run on."""

from __future__ import annotations

_SCORES = "  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]\n"
_SCALED = _SCORES + "  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.25\n"
_SOFTMAX = """  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
"""


def _attention(body: str, outputs: str, arguments: str = "", captures: str = "") -> str:
    return f"cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]{arguments}{captures})\n{body}  -> {outputs}"


SOFTMAX = _attention(_SCALED + _SOFTMAX, "o, lse")
CAUSAL_ALIBI = _attention(
    _SCORES + "  x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5 + slopes[g * extent(r) + r] * (n - m)  if m >= n\n" + _SOFTMAX,
    "o, lse",
    captures="; slopes: float[:]",
)
SIGMOID = _attention(
    _SCORES + "  p[b,g,r,m,n] = sigmoid(s[b,g,r,m,n] * 0.25)\n  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]\n",
    "o",
)
RELU = _attention(
    _SCORES
    + """  a[b,g,r,m,n] = relu(s[b,g,r,m,n])
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  u[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * v[b,g,n,e]
  o[b,g,r,m,e] = safe_div(u[b,g,r,m,e], l[b,g,r,m])
""",
    "o",
)
ENTROPY = _attention(
    _SCALED + _SOFTMAX + "  h[b,g,r,m] = sum[n] -(p[b,g,r,m,n] * log(p[b,g,r,m,n]))\n",
    "o, h",
)
SINK = _attention(
    _SCALED
    + """  lse0[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  lse[b,g,r,m] = logaddexp(lse0[b,g,r,m], sink[g * extent(r) + r])
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
""",
    "o, lse",
    captures="; sink: float[:]",
)
GATE = _attention(
    _SCALED + _SOFTMAX + "  z[b,g,r,m,e] = o[b,g,r,m,e] * gate[b,g,r,m]\n",
    "z",
    arguments=", gate[b,g,r,m]",
)
DIFFERENTIAL = """cascade(q1[b,h,m,d], q2[b,h,m,d], k1[b,h,n,d], k2[b,h,n,d], v[b,h,n,e], lam[h])
  s1[b,h,m,n] = sum[d] q1[b,h,m,d] * k1[b,h,n,d]
  x1[b,h,m,n] = s1[b,h,m,n] * extent(d) ** -0.5
  lse1[b,h,m] = logsumexp[n] x1[b,h,m,n]
  p1[b,h,m,n] = exp(x1[b,h,m,n] - lse1[b,h,m])
  s2[b,h,m,n] = sum[d] q2[b,h,m,d] * k2[b,h,n,d]
  x2[b,h,m,n] = s2[b,h,m,n] * extent(d) ** -0.5
  lse2[b,h,m] = logsumexp[n] x2[b,h,m,n]
  p2[b,h,m,n] = exp(x2[b,h,m,n] - lse2[b,h,m])
  p[b,h,m,n] = p1[b,h,m,n] - lam[h] * p2[b,h,m,n]
  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,h,n,e]
  -> o"""
LEARNED_BIAS = _attention(
    _SCORES
    + "  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.25 + bias[g * extent(r) + r,m,n] + table[m - n + extent(n)]"
    + " + col[b,n] + row[b,m] * temp  if m >= n\n"
    + _SOFTMAX,
    "o, lse",
    captures="; bias: float[:, :, :], table: float[:], col: float[:, :], row: float[:, :], temp: float[]",
)
ALL = {
    "softmax": SOFTMAX,
    "causal_alibi": CAUSAL_ALIBI,
    "sigmoid": SIGMOID,
    "relu": RELU,
    "entropy": ENTROPY,
    "sink": SINK,
    "gate": GATE,
    "differential": DIFFERENTIAL,
    "learned_bias": LEARNED_BIAS,
}

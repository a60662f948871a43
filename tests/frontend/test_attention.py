"""`attention(...)`: the cascades it builds, as text."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from attngen.errors import CaptureError, ModReturn, ModSignature, NaNConstant, SpecError
from attngen.frontend.attention import attention
from attngen.ir.eval.interpret import interpret
from attngen.ir.parser import parse

SLOPES = torch.exp2(-torch.arange(1, 9, dtype=torch.float32))
HEAD = "cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]"
SCORES = "  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]\n"
SOFTMAX = """  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
  -> o, lse"""
X = "  x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5"


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def alibi(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


def text(body: str, captures: str = "") -> str:
    return f"{HEAD}{captures})\n{SCORES}{body}"


def test_plain() -> None:
    spec = attention()
    assert str(spec.cascade) == text(f"{X}\n{SOFTMAX}")
    assert spec.name == "attention"
    assert [argument.name for argument in spec.arguments] == ["q", "k", "v"]
    assert spec.arguments[0].pattern == (("b",), ("g", "r"), ("m",), ("d",))
    assert [output.name for output in spec.outputs] == ["o", "lse"]
    assert spec.outputs[1].pattern == (("b",), ("g", "r"), ("m",))
    assert spec.captures == () and spec.keys is None


def test_causal() -> None:
    assert str(attention(mask_mod=causal).cascade) == text(f"{X}  if m >= n\n{SOFTMAX}")


def test_alibi_with_captured_slopes() -> None:
    spec = attention(alibi, causal)
    body = f"{X} + SLOPES[g * extent(r) + r] * (n - m)  if m >= n\n{SOFTMAX}"
    assert str(spec.cascade) == text(body, "; SLOPES: float[:]")
    assert spec.captures[0].value is SLOPES
    assert spec.name == "causal_alibi"
    assert spec.source == ("alibi in test_attention.py", "causal in test_attention.py")


def test_a_where_with_minus_infinity_is_a_predicate() -> None:
    def score_mod(score, b, h, q_idx, kv_idx):
        return torch.where(q_idx >= kv_idx, score, -float("inf")) + SLOPES[h]

    def reversed_mod(score, b, h, q_idx, kv_idx):
        return torch.where(q_idx < kv_idx, float("-inf"), score)

    expected = f"{X} + SLOPES[g * extent(r) + r]  if m >= n\n{SOFTMAX}"
    assert str(attention(score_mod).cascade) == text(expected, "; SLOPES: float[:]")
    assert str(attention(reversed_mod).cascade) == text(f"{X}  if not m < n\n{SOFTMAX}")


@pytest.mark.parametrize(
    "mod",
    [
        lambda s, b, h, q, k: s.masked_fill(q < k, float("-inf")),
        lambda s, b, h, q, k: torch.where(q < k, torch.tensor(-float("inf")), s),
        lambda s, b, h, q, k: s + torch.where(q < k, -float("inf"), 0.0),
        lambda s, b, h, q, k: torch.where(q < k, torch.full_like(s, -float("inf")), s / 2.0) * 2.0,
        lambda s, b, h, q, k: torch.where(q < k, -torch.inf, s) - SLOPES[h],
    ],
)
def test_ways_to_write_minus_infinity(mod) -> None:
    x = attention(mod).cascade.step("x")
    assert x is not None and str(attention(mod).cascade).count("if not m < n\n") == 1
    assert "inf" not in str(attention(mod).cascade)


def test_softcap_comes_before_the_score_mod() -> None:
    capped = "20.0 * tanh(s[b,g,r,m,n] * extent(d) ** -0.5 / 20.0)"
    expected = f"  x[b,g,r,m,n] = {capped} * 2.0\n{SOFTMAX}"
    assert str(attention(lambda score, b, h, q, k: score * 2.0, softcap=20).cascade) == text(expected)


def test_scale_is_a_constant_or_a_captured_scalar() -> None:
    assert "s[b,g,r,m,n] * 0.125\n" in str(attention(scale=0.125).cascade)
    spec = attention(scale=torch.tensor(0.125))
    assert "; scale: float[])" in str(spec.cascade)
    assert "s[b,g,r,m,n] * scale\n" in str(spec.cascade)


def test_sigmoid() -> None:
    body = "  p[b,g,r,m,n] = sigmoid(x[b,g,r,m,n])\n  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]\n  -> o"
    assert str(attention(normalizer="sigmoid").cascade) == text(f"{X}\n{body}")


def test_relu_divides_by_its_sum() -> None:
    body = """  a[b,g,r,m,n] = relu(x[b,g,r,m,n])
  l[b,g,r,m] = sum[n] a[b,g,r,m,n]
  u[b,g,r,m,e] = sum[n] a[b,g,r,m,n] * v[b,g,n,e]
  o[b,g,r,m,e] = safe_div(u[b,g,r,m,e], l[b,g,r,m])
  -> o"""
    assert str(attention(normalizer="relu").cascade) == text(f"{X}\n{body}")
    squared = body.replace("relu(x[b,g,r,m,n])", "relu(x[b,g,r,m,n]) * relu(x[b,g,r,m,n])")
    assert str(attention(normalizer="relu_squared").cascade) == text(f"{X}\n{squared}")


@pytest.mark.parametrize("normalizer", ["identity", "none"])
def test_identity(normalizer: str) -> None:
    body = "  o[b,g,r,m,e] = sum[n] x[b,g,r,m,n] * v[b,g,n,e]\n  -> o"
    assert str(attention(normalizer=normalizer).cascade) == text(f"{X}\n{body}")


def test_sink_is_in_the_lse() -> None:
    body = """  lse0[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  lse[b,g,r,m] = logaddexp(lse0[b,g,r,m], sink[g * extent(r) + r])
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
  -> o, lse"""
    assert str(attention(sink=SLOPES).cascade) == text(f"{X}\n{body}", "; sink: float[:]")
    assert "logaddexp(lse0[b,g,r,m], 1.5)" in str(attention(sink=1.5).cascade)
    assert "sink: float[])" in str(attention(sink=torch.tensor(1.5)).cascade)


def test_a_tensor_in_two_roles_is_one_capture() -> None:
    spec = attention(alibi, sink=SLOPES)
    assert [capture.name for capture in spec.captures] == ["SLOPES"]


def test_every_text_parses_back() -> None:
    for spec in (attention(alibi, causal), attention(normalizer="relu_squared"), attention(sink=SLOPES, softcap=3.0)):
        assert parse(str(spec.cascade)) == spec.cascade


def test_mask_mod_may_return_a_python_truth_value() -> None:
    assert attention(mask_mod=lambda b, h, q, k: True).cascade == attention().cascade
    assert "if False" in str(attention(mask_mod=lambda b, h, q, k: False).cascade)


def test_score_mod_may_return_a_number() -> None:
    assert "x[b,g,r,m,n] = 0.0\n" in str(attention(lambda score, b, h, q, k: 0.0).cascade)


def test_steps_are_located_at_the_users_lines() -> None:
    spec = attention(alibi, causal)
    x, p = spec.cascade.step("x"), spec.cascade.step("p")
    assert x is not None and x.loc is not None and x.loc.function == "alibi" and "SLOPES[h]" in x.loc.text()
    assert p is not None and p.loc is not None and "attention(alibi, causal)" in p.loc.text()


def test_tracing_twice_gives_equal_specs() -> None:
    assert attention(alibi, causal) == attention(alibi, causal)


def test_names() -> None:
    assert attention(name="mine").name == "mine"
    assert attention(lambda score, b, h, q, k: score).name == "attention"
    assert attention(normalizer="sigmoid", softcap=2.0).name == "softcap_sigmoid"
    with pytest.raises(SpecError):
        attention(name="not legal")


@pytest.mark.parametrize("options", [{"normalizer": "softmin"}, {"normalizer": "sigmoid", "sink": 1.0}])
def test_illegal_options(options: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        attention(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"sink": torch.zeros(2, 3)}, {"scale": torch.zeros(2)}, {"softcap": torch.tensor(3)}, {"sink": torch.zeros(2, dtype=torch.int32)}],
)
def test_illegal_tensors(options: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CaptureError):
        attention(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mod", [lambda score, b, h, q: score, lambda score, b, h, q, k, extra: score, 3.0])
def test_wrong_parameters(mod: object) -> None:
    with pytest.raises(ModSignature):
        attention(mod)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mod",
    [
        lambda score, b, h, q, k: None,
        lambda score, b, h, q, k: "score",
        lambda score, b, h, q, k: (score, score),
        lambda score, b, h, q, k: q >= k,
        lambda score, b, h, q, k: SLOPES,
        lambda score, b, h, q, k: score + SLOPES,
    ],
)
def test_score_mod_returns_no_score(mod: object) -> None:
    with pytest.raises(ModReturn):
        attention(mod)  # type: ignore[arg-type]


@pytest.mark.parametrize("mod", [lambda b, h, q, k: None, lambda b, h, q, k: SLOPES[h], lambda b, h, q, k: q - k, lambda b, h, q, k: 1.0])
def test_mask_mod_returns_no_truth_value(mod: object) -> None:
    with pytest.raises(ModReturn):
        attention(mask_mod=mod)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mod",
    [lambda s, b, h, q, k: s + float("nan"), lambda s, b, h, q, k: float("nan"), lambda s, b, h, q, k: s + torch.tensor(float("nan"))],
)
def test_nan_constants(mod: object) -> None:
    with pytest.raises(NaNConstant):
        attention(mod)  # type: ignore[arg-type]


def test_the_cascade_computes_attention() -> None:
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal(shape) for shape in ((2, 2, 3, 5, 4), (2, 2, 7, 4), (2, 2, 7, 6)))
    spec = attention(alibi, causal)
    found = interpret(spec.cascade, {"q": q, "k": k, "v": v, "SLOPES": SLOPES[:6].numpy()})
    positions = np.arange(5)[:, None], np.arange(7)[None, :]
    bias = SLOPES[:6].reshape(2, 3, 1, 1).numpy() * (positions[1] - positions[0])
    scores = np.where(positions[0] >= positions[1], np.einsum("bgrmd,bgnd->bgrmn", q, k) / 2 + bias, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found["o"], np.einsum("bgrmn,bgne->bgrme", weights, v), rtol=1e-12)
    np.testing.assert_allclose(found["lse"], np.log(np.exp(scores).sum(-1)), rtol=1e-12)


def test_tracing_is_fast() -> None:
    attention(alibi, causal)
    best = min(_timed() for _ in range(10))
    assert best < 0.02  # seconds; a warm trace takes a twentieth of that


def _timed() -> float:
    start = time.perf_counter()
    attention(alibi, causal)
    return time.perf_counter() - start

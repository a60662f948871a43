from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.interpreter.torch_reference import reference
from attngen.ir.cascade import Cascade
from attngen.ir.eval.interpret import interpret
from attngen.ir.parser import parse
from tests.cascades import cascades, values

SOFTMAX = """
cascade(q[b,m,d], k[b,n,d], v[b,n,e]; slopes: float[:], w: int)
  s[b,m,n] = sum[d] q[b,m,d] * k[b,n,d]
  x[b,m,n] = s[b,m,n] * 0.5 + slopes[b] * (n - m)  if m >= n + w
  lse[b,m] = logsumexp[n] x[b,m,n]
  p[b,m,n] = exp(x[b,m,n] - lse[b,m])
  o[b,m,e] = sum[n] p[b,m,n] * v[b,n,e]
  h[b,m] = sum[n] p[b,m,n] * (lse[b,m] - x[b,m,n])
  -> o, lse, h
"""


def tensors(dtype: torch.dtype = torch.float64, keys: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (2, 6, 3), "k": (2, keys, 3), "v": (2, keys, 4), "slopes": (2,)}
    return {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for n, s in shapes.items()}


@settings(max_examples=30)
@given(cascades(), st.fixed_dictionaries({axis: st.integers(0, 3) for axis in "mnd"}), st.integers(0, 99))
def test_agrees_with_numpy(cascade: Cascade, extents: dict[str, int], seed: int) -> None:
    inputs = values(extents, seed)
    plain = interpret(cascade, inputs)
    found = reference(cascade, {name: torch.as_tensor(value) for name, value in inputs.items()})
    assert list(found) == list(plain)
    for name, value in found.items():
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value.numpy(), plain[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [0, 2])
def test_gradients_against_finite_differences(window: int) -> None:
    inputs = tensors()
    cascade = parse(SOFTMAX)

    def outputs(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = reference(cascade, {**dict(zip(inputs, arguments, strict=True)), "w": window})
        return found["o"], found["h"], found["lse"][:, window:]

    assert torch.autograd.gradcheck(outputs, tuple(inputs.values()))
    if window:
        assert torch.autograd.gradgradcheck(lambda *a: outputs(*a)[:2], tuple(inputs.values()))


def test_softmax_against_sdpa() -> None:
    inputs = tensors()
    found = reference(parse(SOFTMAX), {**inputs, "slopes": torch.zeros(2), "w": 0})
    keep = torch.arange(6)[:, None] >= torch.arange(5)
    expected = torch.nn.functional.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"], attn_mask=keep, scale=0.5)
    torch.testing.assert_close(found["o"], expected)


@pytest.mark.parametrize("keys", [0, 1, 5])
def test_rows_that_attend_to_nothing_have_no_gradient(keys: int) -> None:
    inputs = tensors(keys=keys)
    found = reference(parse(SOFTMAX), {**inputs, "w": 3})
    assert (found["o"][:, :3] == 0).all() and (found["lse"][:, :3] == -torch.inf).all()
    (found["o"].sum() + found["h"].sum()).backward()
    for name, tensor in inputs.items():
        assert tensor.grad is None or tensor.grad.isfinite().all(), name
    assert inputs["q"].grad is None or (inputs["q"].grad[:, :3] == 0).all()


def test_gradient_of_the_branch_not_taken_is_zero() -> None:
    a = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    found = reference(parse("cascade(a[m])\n  y[m] = where(a[m] > 0.0, sqrt(a[m]), 0.0)\n  -> y"), {"a": a})
    found["y"].sum().backward()
    assert a.grad is not None and a.grad.tolist() == [0, 0.25]


def test_gradient_of_safe_div_by_zero_is_zero() -> None:
    a, b = torch.ones(2, dtype=torch.float64, requires_grad=True), torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    reference(parse("cascade(a[m], b[m])\n  y[m] = safe_div(a[m], b[m])\n  -> y"), {"a": a, "b": b})["y"].sum().backward()
    assert a.grad is not None and a.grad.tolist() == [0, 0.5]
    assert b.grad is not None and b.grad.tolist() == [0, -0.25]


def test_gradient_of_a_gather_adds_up() -> None:
    t = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    cascade = parse("cascade(a[m]; t: float[:])\n  y[m] = a[m] * t[m // 2]\n  -> y")
    reference(cascade, {"a": torch.arange(5.0), "t": t})["y"].sum().backward()
    assert t.grad is not None and t.grad.tolist() == [1, 5, 4]


def test_scores_of_a_thousand_keep_finite_gradients() -> None:
    inputs = {name: (tensor.detach() * 300).requires_grad_() for name, tensor in tensors().items()}
    found = reference(parse(SOFTMAX), {**inputs, "w": 1})
    (found["o"].sum() + found["h"].sum()).backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs.values())


def test_low_precision_rounds_results_but_not_row_statistics() -> None:
    inputs = tensors(torch.bfloat16)
    exact = reference(parse(SOFTMAX), {**inputs, "w": 0})
    rounded = reference(parse(SOFTMAX), {**inputs, "w": 0}, torch.float32, torch.bfloat16)
    for name in ("s", "p", "o"):
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], rounded[name].bfloat16().float(), rtol=0, atol=0)
    assert not torch.equal(rounded["lse"], rounded["lse"].bfloat16().float())
    error = (rounded["o"] - exact["o"]).abs().max()
    assert 1e-4 < error < 0.05


def test_single_precision() -> None:
    inputs = tensors(torch.float32)
    found, exact = reference(parse(SOFTMAX), {**inputs, "w": 0}, torch.float32), reference(parse(SOFTMAX), {**inputs, "w": 0})
    assert found["o"].dtype == torch.float32
    torch.testing.assert_close(found["o"].double(), exact["o"], rtol=1e-5, atol=1e-6)

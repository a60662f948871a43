"""Each rule against autograd of the reference, at smooth points, and where a branch that is not taken has no slope."""

from __future__ import annotations

import pytest
import torch

from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import OPS, Apply, Const, Expr, Index, Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.transform.autodiff.rules import RULES, gradients

A, B, C = (Read(name, (Index("m"),)) for name in "abc")
WITHOUT = {"floordiv", "floor", "ceil", "rint", "sign", "to_float"}
FLOATS = [name for name, op in OPS.items() if op.result in ("float", "same") and name not in WITHOUT | {"bitor"} and name not in ("where",)]


def assert_derivative(body: Expr, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> None:
    inputs = tuple(Input(name, ("m",), 1) for name in "abcd")
    found = gradients(body, body, Read("d", (Index("m"),)))
    steps = (Einsum("y", ("m",), body), *(Einsum(f"d{read.tensor}", ("m",), part) for read, part in found.items()))
    leaves = {name: (a if value is None else value).clone().requires_grad_() for name, value in zip("abc", (a, b, c), strict=True)}
    cotangent = torch.linspace(-1.0, 2.0, len(a), dtype=torch.float64)
    values = reference(Cascade(inputs, steps, tuple(step.name for step in steps)), {**leaves, "d": cotangent})
    truth = torch.autograd.grad((values["y"] * cotangent).sum(), list(leaves.values()), allow_unused=True)
    for name, expected in zip(leaves, truth, strict=True):
        mine = values.get(f"d{name}", torch.zeros_like(a))
        torch.testing.assert_close(mine, torch.zeros_like(a) if expected is None else expected, rtol=1e-12, atol=1e-12)


def points(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(50, generator=generator, dtype=torch.float64) * (high - low) + low for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("name", FLOATS)
def test_rule(name: str) -> None:
    positive = name in ("log", "log2", "sqrt", "rsqrt", "pow", "div", "safe_div", "mod")
    a, b = points(0.5, 2.0) if positive else points(-2.0, 2.0)
    if name == "hardtanh":
        assert_derivative(Apply(name, (A, Const(-1.0, "float"), Const(0.5, "float"))), a, b)
    else:
        assert_derivative(Apply(name, (A, B, C)[: OPS[name].arity]), a, b, b.flip(0))


def test_every_smooth_operation_has_a_rule() -> None:
    assert set(FLOATS) == set(RULES) - {"to_float"}


@pytest.mark.parametrize("text", ["a[m] ** 3", "a[m] ** 2.0", "a[m] ** -1", "a[m] ** 1"])
def test_constant_powers(text: str) -> None:
    body = parse(f"cascade(a[m], b[m])\n  y[m] = {text}\n  -> y").steps[0].body
    assert_derivative(body, *points(-2.0, -0.5))


@pytest.mark.parametrize(
    "text",
    [
        "where(a[m] > 0.0, sqrt(a[m]), b[m])",
        "where(a[m] > 0.0, log(a[m]), a[m] * b[m])",
        "where(a[m] > 0.0, b[m], rsqrt(-a[m])) * a[m]",
        "safe_div(b[m], relu(a[m]))",
        "tanh(where(a[m] > 0.0, where(b[m] > 0.0, sqrt(b[m] * a[m]), a[m]), 1.0))",
    ],
)
def test_the_branch_not_taken_leaves_no_nan(text: str) -> None:
    body = parse(f"cascade(a[m], b[m])\n  y[m] = {text}\n  -> y").steps[0].body
    assert_derivative(body, *points(-2.0, 2.0))


def test_ties() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    for name in ("relu", "abs"):
        assert_derivative(Apply(name, (A,)), zero, zero)
    whole = gradients(Apply("max", (A, B)), Read("y", ()), build.ONE)
    assert print_expr(whole[A]) == "where(a[m] == b[m], 0.5, where(a[m] < b[m], 0.0, 1.0))"


@pytest.mark.parametrize("name", ["min", "max", "clamp", "clamp_min", "clamp_max", "hardtanh", "pow"])
def test_where_slopes_jump(name: str) -> None:
    """Every order of three values, equal ones as well; powers of 0 and by 0."""
    few = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    a, b, c = (axis.reshape(-1) for axis in torch.meshgrid(few, few, few, indexing="ij"))
    bounds = (Const(0.0, "float"), Const(1.0, "float")) if name == "hardtanh" else (B, C)
    assert_derivative(Apply(name, (A, *bounds)[: OPS[name].arity]), a, b, c)


def test_far_out_values_stay_finite() -> None:
    far = torch.tensor([-1e4, -40.0, 40.0, 1e4], dtype=torch.float64)
    for name in ("sigmoid", "softplus", "tanh", "gelu", "gelu_tanh", "erf"):
        assert_derivative(Apply(name, (A,)), far, far)
    assert_derivative(Apply("logaddexp", (A, B)), far, -far)


def test_integers_and_rounding_have_none() -> None:
    for body in (Index("m"), Apply("floor", (A,)), Apply("sign", (A,)), Apply("to_float", (Apply("to_int", (A,)),)), Const(1.0, "float")):
        assert gradients(body, body, build.ONE) == {}
    assert list(gradients(Apply("where", (Apply("gt", (A, B)), A, build.ZERO)), A, build.ONE)) == [A]


def test_reads_at_several_positions_are_kept_apart() -> None:
    shifted = Read("a", (Apply("add", (Index("m"), Const(1, "int"))),))
    assert set(gradients(Apply("mul", (A, shifted)), A, build.ONE)) == {A, shifted}

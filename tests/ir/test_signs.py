from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.ir import build
from attngen.ir.eval.numpy_backend import NumpyBackend
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.parser import parse
from attngen.ir.signs import ANY, NEGATIVE, NOT_NEGATIVE, POSITIVE, signs

X, Y = (build.read(name, ("m",)) for name in "xy")


def of(text: str) -> frozenset[int]:
    return signs(parse(f"cascade(x[m], y[m]; scale: float, t: float[:])\n  z[m] = {text}\n  -> z").steps[0].body)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("extent(m) ** -0.5", POSITIVE),
        ("1.0 / extent(m)", POSITIVE),
        ("extent(m) * extent(m) + 1", POSITIVE),
        ("0.5 * exp(x[m])", POSITIVE),
        ("-exp(x[m])", NEGATIVE),
        ("-0.5", NEGATIVE),
        ("x[m] * x[m]", NOT_NEGATIVE),
        ("x[m] * x[m] + 0.1", POSITIVE),
        ("x[m] ** 2.0", NOT_NEGATIVE),
        ("sigmoid(x[m]) * softplus(y[m])", POSITIVE),
        ("sqrt(extent(m))", POSITIVE),
        ("max(x[m], 1.0)", POSITIVE),
        ("where(m > 2, 0.5, extent(m) * 2)", POSITIVE),
        ("m + 1", POSITIVE),
        ("clamp_min(x[m], 1.0)", POSITIVE),
        ("clamp(x[m], -2.0, -1.0)", NEGATIVE),
        ("m", NOT_NEGATIVE),
        ("exp(x[m]) - exp(y[m])", ANY),
        ("scale", ANY),
        ("t[m]", ANY),
        ("x[m] * y[m]", ANY),
        ("tanh(x[m])", ANY),
    ],
)
def test_signs(text: str, found: frozenset[int]) -> None:
    assert of(text) == found


def test_signs_of_steps() -> None:
    assert signs(build.mul(X, Y), {"x": POSITIVE, "y": NEGATIVE}) == NEGATIVE


_ONE = (
    "neg",
    "abs",
    "exp",
    "sigmoid",
    "softplus",
    "relu",
    "tanh",
    "sqrt",
    "floor",
    "ceil",
    "sign",
    "erf",
    "cos",
    "to_float",
    "rint",
    "atan",
    "asinh",
    "expm1",
)
_TWO = ("add", "sub", "mul", "div", "min", "max", "safe_div", "pow", "mod", "floordiv", "logaddexp", "clamp_min", "clamp_max")


def _expressions() -> st.SearchStrategy[Expr]:
    leaves = st.one_of(st.sampled_from([X, Y, Extent("d"), Index("m")]), st.sampled_from([-2.0, 0.0, 0.5, 3.0]).map(build.const))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(_ONE), inner).map(lambda parts: Apply(parts[0], (parts[1],))),
            st.tuples(st.sampled_from(_TWO), inner, inner).map(lambda parts: Apply(parts[0], parts[1:])),
        ),
        max_leaves=6,
    )


def _evaluated(expr: Expr, values: dict[Expr, float]) -> float:
    if isinstance(expr, Apply):
        return float(NumpyBackend().pointwise[expr.op](*(_as_array(_evaluated(arg, values)) for arg in expr.args)))
    return values[expr] if expr in values else float(expr.value)  # type: ignore[union-attr]


def _as_array(value: float) -> object:
    return NumpyBackend().array(value, "float")


@given(_expressions(), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 5), st.integers(1, 64))
def test_no_value_has_another_sign(expr: Expr, x: float, y: float, position: int, length: int) -> None:
    values: dict[Expr, float] = {X: x, Y: y, Index("m"): position, Extent("d"): length}
    found = _evaluated(expr, values)
    if not math.isnan(found):
        assert (found > 0) - (found < 0) in signs(expr) or (found == 0 and _underflows(expr)), expr


def _underflows(expr: Expr) -> bool:
    """Whether an exponential, or a quotient of small numbers, may have become 0."""
    return any(op in str(expr) for op in ("exp", "sigmoid", "softplus", "pow", "div"))


def test_reads_are_numbers_of_any_sign() -> None:
    assert signs(Read("t", (Index("m"),), "int")) == ANY
    assert signs(Read("t", (Index("m"),), "bool")) == NOT_NEGATIVE

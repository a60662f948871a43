"""Every pointwise function that the tracer takes computes what torch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attngen.errors import UnsupportedOperation
from tests.frontend.evaluate import assert_traces_to_itself, traced_value

X = torch.tensor([-2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 2.5, 3.7], dtype=torch.float64)
Y = torch.tensor([1.5, -1.0, 2.0, 0.25, -0.4, 3.0, -2.5, 3.7], dtype=torch.float64)
POSITIVE = X.abs() + 0.1
I = torch.tensor([-7, -3, -1, 0, 1, 3, 5, 12])  # noqa: E741
J = torch.tensor([2, -2, 3, 4, 5, -4, 2, 7])
P = torch.tensor([True, False, True, True, False, False, True, False])
Q = torch.tensor([True, True, False, True, False, True, False, False])

UNARY = {
    "neg": lambda x: -x,
    "abs": torch.abs,
    "abs method": lambda x: x.abs(),
    "builtin abs": abs,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "expit": torch.special.expit,
    "relu": F.relu,
    "torch.relu": torch.relu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "softplus beta": lambda x: F.softplus(x, beta=2.0),
    "logsigmoid": F.logsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "elu": lambda x: F.elu(x, alpha=0.7),
    "selu": F.selu,
    "celu": torch.nn.CELU(0.7),
    "mish": F.mish,
    "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 1.0, -3.0),
    "hardshrink": F.hardshrink,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "tanhshrink": F.tanhshrink,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.arcsinh,
    "asin": lambda x: torch.asin(x / 4),
    "acos": lambda x: torch.acos(x / 4),
    "atanh": lambda x: torch.atanh(x / 4),
    "atan": torch.atan,
    "sinc": torch.sinc,
    "expm1": torch.expm1,
    "deg2rad": torch.deg2rad,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "erf": torch.erf,
    "square": torch.square,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": lambda x: torch.round(2 * x),
    "round decimals": lambda x: torch.round(x / 3, decimals=2),
    "round tens": lambda x: (100 * x).round(decimals=-1),
    "half": lambda x: x.half().double(),
    "bfloat16": lambda x: x.to(dtype=torch.bfloat16).double(),
    "as another": lambda x: x.type_as(torch.zeros((), dtype=torch.float16)).double(),
    "byte": lambda x: x.byte(),
    "short": lambda x: (x * 1e5).short(),
    "large power": lambda x: x**9,
    "large inverse power": lambda x: (x + 5.0) ** -11,
    "no power": lambda x: x**0,
    "frac": torch.frac,
    "clamp": lambda x: torch.clamp(x, -1.0, 1.0),
    "clamp min": lambda x: x.clamp(min=0.5),
    "clip": lambda x: x.clip(max=0.5),
    "clamp_min": lambda x: x.clamp_min(0.25),
    "isinf": torch.isinf,
    "to int": lambda x: x.to(torch.int64),
    "int": lambda x: x.int(),
    "bool": lambda x: x.bool(),
    "float": lambda x: x.float(),
    "type": lambda x: x.type(torch.float64),
    "square by power": lambda x: x**2,
    "cube": lambda x: x**3,
    "inverse square": lambda x: (x + 5.0) ** -2,
    "power of two": lambda x: 2**x,
    "reciprocal": lambda x: (x + 5.0).reciprocal(),
    "unsqueeze and squeeze": lambda x: x.unsqueeze(-1).squeeze(-1),
    "clone": lambda x: x.clone(),
    "masked_fill": lambda x: x.masked_fill(x > 1, 7.0),
    "zeros_like": torch.zeros_like,
    "full_like": lambda x: torch.full_like(x, 3.0),
    "scalar constant": lambda x: x + torch.tensor(3.0, dtype=torch.float64),
    "scalar full": lambda x: torch.where(x > 0, x, torch.full((), -1.0, dtype=torch.float64)),
    "new_zeros": lambda x: x.new_ones((), dtype=torch.bool) & (x > 0),
    "comparison chain": lambda x: (x > -1) & (x <= 1) | ~(x < 3),
}
POSITIVE_ONLY = {
    "log": torch.log,
    "log1p": torch.special.log1p,
    "acosh": lambda x: torch.acosh(x + 1),
    "logit": lambda x: torch.logit(x / 5),
    "log2": torch.log2,
    "log10": torch.log10,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "power": lambda x: x**0.5,
    "float exponent": lambda x: torch.pow(x, 2.5),
}
BINARY = {
    "add": lambda a, b: a + b,
    "add alpha": lambda a, b: torch.add(a, b, alpha=2),
    "sub": torch.sub,
    "rsub": torch.rsub,
    "mul": torch.multiply,
    "div": lambda a, b: a / b,
    "floor division": lambda a, b: a // b,
    "div floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "div trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "mod": lambda a, b: a % b,
    "fmod": torch.fmod,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "atan2": lambda a, b: torch.atan2(a.double(), b.double()),
    "xlogy": lambda a, b: torch.xlogy(a.abs().double(), b.abs().double()),
    "power": lambda a, b: torch.pow(a, torch.floor(b.abs())),
    "float power": lambda a, b: torch.float_power(a, torch.floor(b.abs())),
    "remainder": torch.remainder,
    "minimum": torch.minimum,
    "max": torch.max,
    "max method": lambda a, b: a.max(b),
    "less": lambda a, b: a < b,
    "equal": torch.eq,
    "not equal": lambda a, b: a != b,
    "where": lambda a, b: torch.where(a > b, a, b),
    "where method": lambda a, b: a.where(a < b, b),
    "lerp": lambda a, b: torch.lerp(a.double(), b.double(), 0.3),
    "logaddexp": lambda a, b: torch.logaddexp(a.double(), b.double()),
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "logical_not": lambda a, b: torch.logical_not(a) & (b > 0),
}
INTEGER = {
    "bitwise and": lambda a, b: a & b,
    "bitwise or": lambda a, b: a | b,
    "bitwise xor": lambda a, b: a ^ b,
    "invert": lambda a, b: ~a + b,
    "shift left": lambda a, b: a << 2,
    "shift right": lambda a, b: a >> 1,
    "power": lambda a, b: a**3,
    "power of a power": lambda a, b: a ** b.abs() + 2**b + (-1) ** a,
    "inverse power": lambda a, b: a ** -b.abs() + torch.pow(b, a),
    "large power": lambda a, b: a**13,
    "float power": lambda a, b: torch.float_power(a, 2),
    "float of int": lambda a, b: torch.exp(a / 10),
    "exp of int": lambda a, b: torch.exp2(-(a.abs())),
    "floor of int": lambda a, b: torch.floor(a),
    "reflected": lambda a, b: 7 - a,
    "reflected mod": lambda a, b: 7 % b,
    "int and float": lambda a, b: a * 0.5,
}
TRUTH = {
    "and": lambda p, q: p & q,
    "or": torch.logical_or,
    "xor": lambda p, q: p ^ q,
    "not": lambda p, q: ~p,
    "add": lambda p, q: p + q,
    "mul": lambda p, q: p * q,
    "equal": lambda p, q: p == q,
    "where": lambda p, q: torch.where(p, q, ~q),
    "as number": lambda p, q: p * 2.0 + q.int(),
    "and int": lambda p, q: p.int() & 1,
    "less": lambda p, q: p < q,
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    assert_traces_to_itself(UNARY[name], X)


@pytest.mark.parametrize("name", POSITIVE_ONLY)
def test_of_positive(name: str) -> None:
    assert_traces_to_itself(POSITIVE_ONLY[name], POSITIVE)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    assert_traces_to_itself(BINARY[name], X, Y)
    assert_traces_to_itself(BINARY[name], I, J)


@pytest.mark.parametrize("name", INTEGER)
def test_of_integers(name: str) -> None:
    assert_traces_to_itself(INTEGER[name], I, J)


@pytest.mark.parametrize("name", TRUTH)
def test_of_truth_values(name: str) -> None:
    assert_traces_to_itself(TRUTH[name], P, Q)


def test_augmented_assignment_is_seen_through_every_name() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        total = x
        total += 1.0
        return x * total

    assert_traces_to_itself(function, X)


def test_a_captured_number_is_bound_anew() -> None:
    step = 2

    def function(x: torch.Tensor) -> torch.Tensor:
        size = step
        size += 1
        return x * step + size

    assert_traces_to_itself(function, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.erfinv(x),
        lambda x: torch.nextafter(x, x),
        lambda x: x @ x,
        lambda x: x.cumsum(0),
        lambda x: x.detach(),
        lambda x: x << 1,
        lambda x: x.reshape(2, 4),
        lambda x: (x > 0) - (x < 0),
    ],
)
def test_refused(function: object) -> None:
    with pytest.raises(UnsupportedOperation):
        traced_value(function, X)  # type: ignore[arg-type]


def test_a_negative_power_of_an_integer_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="negative power"):
        traced_value(lambda a: a**-1, I)

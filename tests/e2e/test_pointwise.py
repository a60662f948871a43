"""Pointwise functions in mods: values and every gradient as in float64 PyTorch, where slopes jump too, in kernels and in `reference`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.errors import NotStreamable, UnsupportedOperation

F64 = torch.float64
Mod = Callable[..., Any]


def dense(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod, scale: float = 0.25) -> Tensor:
    """Softmax attention as PyTorch has it. What whole numbers and Python's make is float64 as well: by default it would be float32."""
    torch.set_default_dtype(F64)
    b, h, m, n = *q.shape[:3], k.shape[2]
    at = torch.arange(b)[:, None, None, None], torch.arange(h)[:, None, None], torch.arange(m)[:, None], torch.arange(n)
    scores = q @ k.mT * scale
    try:
        return torch.softmax(score_mod(scores, *at).expand(scores.shape), -1) @ v
    finally:
        torch.set_default_dtype(torch.float32)


def assert_as_in_torch(score_mod: Mod, *learned: Tensor, seed: int = 0, both: bool = True, scale: float = 0.25) -> None:
    """Kernels and `reference` against dense PyTorch in float64, forward and gradients of all tensors."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (20, 27, 27)
    leaves = [torch.randn(1, 2, length, 16, generator=generator, dtype=F64).requires_grad_() for length in shapes]
    cotangent = torch.randn(1, 2, 20, 16, generator=generator, dtype=F64)
    attend = attngen.compile(attngen.attention(score_mod=score_mod, scale=scale))
    wanted = (*leaves, *(item for item in learned if item.requires_grad))

    def results(run: Callable[..., Tensor]) -> list[Tensor]:
        out = run(*leaves)
        found = torch.autograd.grad(out, wanted, cotangent, allow_unused=True)
        return [out, *(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, wanted, strict=True))]

    truth = results(lambda q, k, v: dense(q, k, v, score_mod, scale))
    for run in (attend, attend.reference) if both else (attend,):
        for found, expected in zip(results(run), truth, strict=True):
            largest = max(torch.nan_to_num(expected, posinf=0.0, neginf=0.0).abs().max().item(), 1.0)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-11 * largest, equal_nan=True)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64, requires_grad=True)


SMOOTH: dict[str, Callable[[Tensor], Any]] = {
    "log1p": lambda x: torch.log1p(x.abs()) + torch.log1p(1e-9 * x) * 1e7,
    "expm1": lambda x: torch.expm1(x) + torch.expm1(1e-9 * x) * 1e7,
    "atan": lambda x: torch.atan(4 * x),
    "atan2": lambda x: torch.atan2(x, 0.3 - x) + torch.atan2(x, -2.0 - x * x),
    "asinh": lambda x: torch.asinh(x) + torch.asinh(1e-9 * x) * 1e7,
    "sinh, cosh": lambda x: torch.sinh(x) - torch.cosh(0.5 * x),
    "atanh, acosh": lambda x: torch.atanh(0.2 * x) + torch.acosh(x.abs() + 1.5),
    "asin, acos": lambda x: torch.asin(0.15 * x) * torch.acos(0.15 * x),
    "tanh": lambda x: torch.tanh(x) + 1e8 * torch.tanh(x / 1e8),
    "mish": F.mish,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 0.5),  # with 0.7 the gradient of torch has the digits of fp32
    "selu": torch.selu,
    "sinc": torch.sinc,
    "logit": lambda x: torch.logit(torch.sigmoid(x)),
    "xlogy": lambda x: torch.xlogy(x, x * x),
    "fmod": lambda x: torch.fmod(x, 0.7) + torch.fmod(2.3 + 0 * x, x.abs() + 0.5),
    "remainder": lambda x: torch.remainder(x, 0.7) + torch.remainder(x, -x.abs() - 0.5),
}
JUMPS: dict[str, Callable[[Tensor], Any]] = {
    "round": lambda x: torch.round(x / 2) * x + torch.round(x / 3, decimals=2),
    "hardtanh": F.hardtanh,
    "relu6": lambda x: F.relu6(3 * x),
    "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
    "hardswish": lambda x: F.hardswish(3 * x),
    "elu": lambda x: F.elu(x, 2.0),
    "selu": F.selu,
    "threshold": lambda x: F.threshold(x, 1.0, 5.0),
    "hardshrink": lambda x: F.hardshrink(x, 1.0),
    "softshrink": lambda x: F.softshrink(x, 1.0),
    "clamp": lambda x: torch.clamp(x, -1.0, 2.0),
    "clip": lambda x: x.clip(max=1.0),
    "fmax": lambda x: torch.fmax(x, 1 - x) - torch.fmin(x, 2 - x),
    "maximum": lambda x: torch.maximum(x, 1 - x) - torch.minimum(x, 2 * x),
    "abs": torch.abs,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "fmod": lambda x: torch.fmod(x, 2.0),
}
"""At whole numbers, where their slopes jump."""


def total(functions: dict[str, Callable[[Tensor], Any]]) -> Callable[[Tensor], Any]:
    def function(x: Tensor) -> Any:
        result: Any = 0.0
        for place, part in enumerate(functions.values()):
            result = result + (0.3 + 0.1 * place) * part(x)
        return result

    return function


@pytest.mark.parametrize("names", [tuple(SMOOTH)[i::3] for i in range(3)], ids=",".join)
def test_smooth_functions(names: tuple[str, ...]) -> None:
    function = total({name: SMOOTH[name] for name in names})
    assert_as_in_torch(lambda x, b, h, i, j: 0.1 * function(x), both=False)


@pytest.mark.parametrize("names", [tuple(JUMPS)[i::2] for i in range(2)], ids=",".join)
def test_jumps(names: tuple[str, ...]) -> None:
    u, function = number(1.0), total({name: JUMPS[name] for name in names})
    assert_as_in_torch(lambda x, b, h, i, j: x - 0.01 * function(u * (i - j)), u)


PARTS: dict[str, Callable[..., Any]] = {
    "x": lambda x, d, w: x,
    "d": lambda x, d, w: 0.25 * d,
    "w d": lambda x, d, w: w * d,
    "x + x": lambda x, d, w: x + x,
    "x x": lambda x, d, w: x * x,
    "|d|": lambda x, d, w: d.abs(),
    "w": lambda x, d, w: w,
    "3": lambda x, d, w: 3.0 + 0 * w,
}
PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max": torch.max,
    "fmax": torch.fmax,
    "clamp": lambda a, b: torch.clamp(a, b, b + 2.0),
    "clamp of tensors": lambda a, b: torch.clamp(a, 1 - b, b),
    "clamp_max": torch.clamp_max,
    "hardtanh": lambda a, b: F.hardtanh(a, -3.0, 2.0) * b,
    "sum": lambda a, b: a + b + a,
    "difference": lambda a, b: a - b + a - a,
    "product": lambda a, b: 0.1 * a * b * a,
    "where": lambda a, b: torch.where(a > b, 0.3, 0.7) * a,
}


_PART = st.sampled_from(sorted(PARTS))


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(PAIRS)), _PART, _PART), min_size=2, max_size=4))
@example([("sum", "x", "x"), ("maximum", "w d", "3"), ("clamp of tensors", "w", "3")])
def test_ties_and_repeated_terms(chosen: list[tuple[str, str, str]]) -> None:
    w = torch.tensor([1.0, 3.0], dtype=F64, requires_grad=True)

    def mod(x: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        found = [0.05 * PAIRS[pair](PARTS[one](x, i - j, w[h]), PARTS[other](x, i - j, w[h])) for pair, one, other in chosen]
        result = found[0] + found[0]
        for part in found[1:]:
            result = result + part + part
        return result

    assert_as_in_torch(mod, w)


@pytest.mark.parametrize("times", [2, 3])
def test_a_sum_of_one_product_counts_its_terms(times: int) -> None:
    """Without a scale, so that the product of queries and keys itself is added to itself."""
    assert_as_in_torch(lambda x, b, h, i, j: x + x if times == 2 else x + (x + x), scale=1.0, both=False)


def test_a_sum_of_two_products_counts_its_terms() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def spec(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        t = attngen.einsum("b h m d, b h n d -> b h m n", q * q, k)
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s + t + s, over="n"), v)

    q, k, v = (torch.randn(1, 1, length, 16, dtype=F64) for length in (20, 27, 27))
    expected = torch.softmax(2 * q @ k.mT + (q * q) @ k.mT, -1) @ v
    torch.testing.assert_close(attngen.compile(spec)(q, k, v), expected, rtol=1e-11, atol=1e-11)


BASES: dict[str, Callable[..., Any]] = {
    "score": lambda x, d, w: x,
    "distance": lambda x, d, w: 0.1 * d,
    "whole distance": lambda x, d, w: d,
    "1 + |d|": lambda x, d, w: 1 + d.abs(),
    "relu": lambda x, d, w: torch.relu(x),
    "learned": lambda x, d, w: w,
    "-0.5": lambda x, d, w: -0.5,
    "0.0": lambda x, d, w: 0.0,
}
NATURAL, WIDTH = 3, 2.0
EXPONENTS: dict[str, Callable[..., Any]] = {
    "0": lambda x, d, w: 0,
    "2": lambda x, d, w: 2,
    "5": lambda x, d, w: 5,
    "9": lambda x, d, w: 9,
    "11.0": lambda x, d, w: 11.0,
    "captured int": lambda x, d, w: NATURAL,
    "captured float": lambda x, d, w: WIDTH,
    "|d| % 5": lambda x, d, w: d.abs() % 5,
    "learned": lambda x, d, w: w,
}


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(sorted(BASES)), st.sampled_from(sorted(EXPONENTS)))
@example("score", "captured int")
@example("learned", "learned")
@example("whole distance", "|d| % 5")
@example("whole distance", "9")
@example("0.0", "|d| % 5")
def test_powers(base: str, exponent: str) -> None:
    """With gradients by base and exponent, at 0 as well; a fractional exponent only where it gives numbers."""
    w = torch.tensor([2.0, 0.0], dtype=F64, requires_grad=True)
    base_of, exponent_of = BASES[base], EXPONENTS[exponent]

    def mod(x: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        power: Any = base_of(x, i - j, w[h]) ** exponent_of(x, i - j, w[h])
        return x + torch.tanh(0.01 * (x * 0 + power))

    assert_as_in_torch(mod, w)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_round_values_and_gradients(dtype: torch.dtype) -> None:
    w = torch.tensor([1.3, -0.7], dtype=F64, requires_grad=True)
    assert_as_in_torch(lambda x, b, h, i, j: (30 * x).to(dtype).double() / 30 - (w[h] * (i - j)).to(dtype=dtype).double() * 0.1, w)
    assert_as_in_torch(lambda x, b, h, i, j: (x.to(dtype).double() + x).to(dtype).double() - x.to(dtype).double(), both=False)


def test_casts_of_weights_need_another_pass() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def spec(q: Any, k: Any, v: Any) -> Any:
        p = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k) * 0.25, over="n").to(torch.bfloat16)
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    with pytest.raises(NotStreamable, match="bfloat16"):
        attngen.compile(spec)(*(torch.randn(1, 1, 20, 16) for _ in range(3)))


WHOLE: dict[str, Callable[[Any, Any], Any]] = {
    "difference": lambda a, b: a - b,
    "sum": lambda a, b: a + b + 200,
    "product": lambda a, b: a * b * 3,
    "negation": lambda a, b: -a + abs(b),
    "invert": lambda a, b: ~a - b,
    "shifts": lambda a, b: (a << 3) ^ (b >> 1),
    "quotient": lambda a, b: a // 7 + b % 5,
    "power": lambda a, b: a**3 + b * b,
    "extremes": lambda a, b: torch.maximum(a, b) - torch.minimum(a, b),
    "choice": lambda a, b: torch.where(a > b, a + a, b * 2),
    "compared with 300": lambda a, b: (a < 300).int() + (b == 44),
    "as bytes": lambda a, b: a.to(torch.uint8) + b.byte(),
    "as shorts": lambda a, b: a.short() * b.short(),
    "as integers": lambda a, b: a.int() * b.long(),
    "as floats": lambda a, b: a / 3 + b.float(),
}
NARROW = (torch.uint8, torch.int8, torch.int16)


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(NARROW), st.sampled_from(NARROW), st.lists(st.sampled_from(sorted(WHOLE)), min_size=2, max_size=5, unique=True))
def test_narrow_integers_wrap(first: torch.dtype, second: torch.dtype, names: list[str]) -> None:
    """Of three types, alone and promoted, with Python's numbers; in scores."""
    a = (torch.arange(27) * 3701 % 65536 - 32768).to(first)
    b = (torch.arange(27) * 1117 % 65536 - 32768).to(second)

    def mod(x: Any, h_: Any, h: Any, i: Any, j: Any) -> Any:
        return x + sum(torch.sin(WHOLE[name](a[i], b[j]).double()) for name in names)

    assert_as_in_torch(mod, both=False)


def test_narrow_integers_in_masks() -> None:
    kind = (torch.arange(27) * 11 % 100).to(torch.int8)

    def mask(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (kind[i] * kind[j] > 0) | (kind[i] - kind[j] == 0)

    def mod(x: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return torch.where(mask(b, h, i, j), x, -torch.inf)

    assert_as_in_torch(mod)


def test_a_short_extreme_shares_its_gradient() -> None:
    table = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]], dtype=F64, requires_grad=True)
    attend = attngen.compile(attngen.attention(score_mod=lambda x, b, h, i, j: x * table[h].amax() - table[h].amin(-1)))
    q = torch.randn(1, 2, 9, 16, dtype=F64)
    scale = [table[h].amax() for h in (0, 1)]
    expected = torch.stack([torch.softmax(q[0, h] @ q[0, h].mT * 0.25 * scale[h], -1) @ q[0, h] for h in (0, 1)])
    found = attend(q, q, q)[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    mine, truth = (torch.autograd.grad((out * torch.arange(16)).sum(), table)[0] for out in (found, expected))
    torch.testing.assert_close(mine, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cap", [50.0, 1e4, 1e6])
def test_softcaps_at_half_precision(cap: float) -> None:
    """Of a cap that the spec knows, and of one that a call brings."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 27, 16, generator=generator).to(torch.bfloat16) for _ in range(3))
    scores = q.double() @ k.double().mT * 0.25
    exact = torch.softmax(cap * torch.tanh(scores / cap), -1) @ v.double()
    for spec in (attngen.attention(softcap=cap), attngen.attention(score_mod=lambda x, b, h, i, j: cap * torch.tanh(x / cap))):
        assert (attngen.compile(spec)(q, k, v) - exact).abs().max() < 1e-2


def test_refused_by_name() -> None:
    spec = lambda function: attngen.attention(score_mod=lambda x, b, h, i, j: function(x))  # noqa: E731
    for function, words in (
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda x: x.to(torch.complex64), "complex64"),
        (torch.erfinv, "(?s)erfinv.*atan.*log1p.*round"),
        (lambda x: x.int() ** -1, "negative power"),
    ):
        with pytest.raises(UnsupportedOperation, match=words):
            spec(function)

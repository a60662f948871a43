"""Composite pointwise functions of torch, with torch's subgradients at kinks.

As `pointwise`, takes and gives bare expressions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attngen.errors import UnsupportedOperation
from attngen.ir import build
from attngen.ir.build import add, apply, const, mul, neg, sub
from attngen.ir.expr import Const, Expr, kind_of

_HALF = const(0.5)
_MINUS_ONE = const(-1.0)
_SIX = const(6.0)
_SELU = (1.6732632423543772, 1.0507009873554805)


def _float(expr: Expr) -> Expr:
    return apply("to_float", expr)


def _where(condition: Expr, a: Expr, b: Expr) -> Expr:
    return apply("where", condition, a, b)


def _of(function: Callable[..., Expr]) -> Callable[..., Expr]:
    """The function with its argument cast to float."""
    return lambda a, *more, **options: function(_float(a), *more, **options)


def _hardtanh(a: Expr, min_val: Expr = _MINUS_ONE, max_val: Expr = build.ONE) -> Expr:
    return apply("hardtanh", a, _float(min_val), _float(max_val))


def _hardsigmoid(a: Expr) -> Expr:
    inside = add(apply("div", a, _SIX), _HALF)
    return _where(apply("le", a, const(-3.0)), build.ZERO, _where(apply("ge", a, const(3.0)), build.ONE, inside))


def _hardswish(a: Expr) -> Expr:
    inside = apply("div", mul(a, add(a, const(3.0))), _SIX)
    return _where(apply("le", a, const(-3.0)), build.ZERO, _where(apply("lt", a, const(3.0)), inside, a))


def _elu(a: Expr, alpha: Expr = build.ONE) -> Expr:
    return _where(apply("gt", a, build.ZERO), a, mul(alpha, apply("expm1", a)))


def _celu(a: Expr, alpha: Expr = build.ONE) -> Expr:
    return _where(apply("gt", a, build.ZERO), a, mul(alpha, apply("expm1", apply("div", a, alpha))))


def _selu(a: Expr) -> Expr:
    alpha, scale = map(const, _SELU)
    return mul(scale, _elu(a, alpha))


def _mish(a: Expr) -> Expr:
    return mul(a, apply("tanh", apply("softplus", a)))


def _softsign(a: Expr) -> Expr:
    return apply("div", a, add(build.ONE, apply("abs", a)))


def _threshold(a: Expr, threshold: Expr, value: Expr) -> Expr:
    return _where(apply("gt", a, threshold), a, _float(value))


def _hardshrink(a: Expr, lambd: Expr = _HALF) -> Expr:
    return _where(apply("or", apply("gt", a, lambd), apply("lt", a, neg(lambd))), a, build.ZERO)


def _softshrink(a: Expr, lambd: Expr = _HALF) -> Expr:
    below = _where(apply("lt", a, neg(lambd)), add(a, lambd), build.ZERO)
    return _where(apply("gt", a, lambd), sub(a, lambd), below)


def _round(a: Expr, decimals: Expr | None = None) -> Expr:
    if kind_of(a) != "float":
        return a
    if decimals is None or build.is_const(decimals, 0):
        return apply("rint", a)
    if not isinstance(decimals, Const):
        raise UnsupportedOperation("a number of decimals that is no literal", remedy="Write torch.round(x * factor) / factor.")
    factor = const(10.0 ** abs(int(decimals.value)))
    there, back = ("mul", "div") if decimals.value > 0 else ("div", "mul")
    return apply(back, apply("rint", apply(there, a, factor)), factor)


def _sinh(a: Expr) -> Expr:
    return mul(_HALF, sub(apply("expm1", a), apply("expm1", neg(a))))


def _cosh(a: Expr) -> Expr:
    return mul(_HALF, add(build.exp(a), build.exp(neg(a))))


def _atanh(a: Expr) -> Expr:
    return mul(_HALF, sub(apply("log1p", a), apply("log1p", neg(a))))


def _acosh(a: Expr) -> Expr:
    above = sub(a, build.ONE)
    return apply("log1p", add(above, apply("sqrt", mul(above, add(a, build.ONE)))))


def _opposite(a: Expr) -> Expr:
    """The cosine of an angle from its sine."""
    return apply("sqrt", mul(sub(build.ONE, a), add(build.ONE, a)))


def _logit(a: Expr, eps: Expr | None = None) -> Expr:
    a = a if eps is None else apply("clamp", a, eps, sub(build.ONE, eps))
    return build.log(apply("div", a, sub(build.ONE, a)))


def _sinc(a: Expr) -> Expr:
    angle = mul(a, const(math.pi))
    return _where(apply("eq", a, build.ZERO), build.ONE, apply("div", apply("sin", angle), angle))


def _xlogy(a: Expr, b: Expr) -> Expr:
    nothing = apply("and", apply("eq", a, build.ZERO), apply("le", b, build.ZERO))
    return _where(nothing, build.ZERO, mul(a, build.log(_float(b))))


ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "round": _round,
    "hardtanh": _of(_hardtanh),
    "relu6": _of(lambda a: _hardtanh(a, build.ZERO, _SIX)),
    "hardsigmoid": _of(_hardsigmoid),
    "hardswish": _of(_hardswish),
    "elu": _of(_elu),
    "celu": _of(_celu),
    "selu": _of(_selu),
    "mish": _of(_mish),
    "softsign": _of(_softsign),
    "threshold": _of(_threshold),
    "hardshrink": _of(_hardshrink),
    "softshrink": _of(_softshrink),
    "tanhshrink": _of(lambda a: sub(a, apply("tanh", a))),
    "sinh": _of(_sinh),
    "cosh": _of(_cosh),
    "asin": _of(lambda a: apply("atan2", a, _opposite(a))),
    "acos": _of(lambda a: apply("atan2", _opposite(a), a)),
    "atanh": _of(_atanh),
    "acosh": _of(_acosh),
    "logit": _of(_logit),
    "sinc": _of(_sinc),
    "xlogy": _of(_xlogy),
    "rad2deg": _of(lambda a: mul(a, const(180.0 / math.pi))),
    "deg2rad": _of(lambda a: mul(a, const(math.pi / 180.0))),
}
"""By the plainest torch name."""

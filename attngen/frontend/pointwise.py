"""What a pointwise torch function means in the IR: names, and the expressions they become.

Takes and gives bare expressions. Knows nothing of torch, of traced values or of the user's frames; `tracer` broadcasts the
arguments and calls in here. Kinds are made to agree explicitly: a truth value that meets a number becomes `to_int` or `to_float`,
and an integer under a transcendental function becomes `to_float`, so that no later stage has to guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attngen.errors import UnsupportedOperation
from attngen.ir import build
from attngen.ir.expr import Const, Expr, Kind, kind_of

LARGEST_UNROLLED_POWER = 4
_LEAK = build.const(0.01)
_MINUS_ONE = build.const(-1.0)


def number(expr: Expr) -> Expr:
    """A truth value as 0 or 1; numbers as they are."""
    return cast(expr, "int") if kind_of(expr) == "bool" else expr


def agree(*args: Expr) -> tuple[Expr, ...]:
    """Truth values among numbers become numbers of the widest kind."""
    kinds = [kind_of(arg) for arg in args]
    if all(kind == "bool" for kind in kinds):
        return args
    target: Kind = "float" if "float" in kinds else "int"
    return tuple(cast(arg, target) if kind == "bool" else arg for arg, kind in zip(args, kinds, strict=True))


def cast(expr: Expr, kind: Kind) -> Expr:
    """The value as another kind; a literal stays a literal."""
    own = kind_of(expr)
    if own == kind:
        return expr
    if kind == "bool":
        return build.apply("ne", expr, Const(0.0, "float") if own == "float" else Const(0, "int"))
    if kind == "int":
        if isinstance(expr, Const) and math.isfinite(expr.value):
            return Const(int(expr.value), "int")
        return build.apply("to_int", expr)
    return build.apply("to_float", expr)


def _float(expr: Expr) -> Expr:
    return cast(expr, "float")


def _same(op: str) -> Callable[..., Expr]:
    return lambda *args: build.apply(op, *(number(arg) for arg in agree(*args)))


def _transcendental(op: str) -> Callable[..., Expr]:
    return lambda *args: build.apply(op, *(_float(arg) for arg in args))


def _compare(op: str) -> Callable[[Expr, Expr], Expr]:
    def compare(a: Expr, b: Expr) -> Expr:
        a, b = agree(a, b)
        if op not in ("eq", "ne"):
            a, b = number(a), number(b)
        return build.apply(op, a, b)

    return compare


def _logical(op: str) -> Callable[..., Expr]:
    return lambda *args: build.apply(op, *(cast(arg, "bool") for arg in args))


def _bitwise(on_bool: str, on_int: str) -> Callable[[Expr, Expr], Expr]:
    def combine(a: Expr, b: Expr) -> Expr:
        if kind_of(a) == "bool" and kind_of(b) == "bool":
            return build.apply(on_bool, a, b)
        _integers(a, b)
        return build.apply(on_int, number(a), number(b))

    return combine


def _integers(*args: Expr) -> None:
    if any(kind_of(arg) == "float" for arg in args):
        raise UnsupportedOperation("bitwise operators and shifts need integers or truth values", remedy="Convert with .int() first.")


def _shift(op: str) -> Callable[[Expr, Expr], Expr]:
    def shift(a: Expr, b: Expr) -> Expr:
        _integers(a, b)
        return build.apply(op, number(a), number(b))

    return shift


def _invert(a: Expr) -> Expr:
    if kind_of(a) == "bool":
        return build.apply("not", a)
    _integers(a)
    return build.apply("bitxor", a, Const(-1, "int"))


def _either(on_bool: str, op: str) -> Callable[[Expr, Expr], Expr]:
    """torch treats `+` and `max` of two masks as or, `*` and `min` as and."""
    plain = _same(op)

    def combine(a: Expr, b: Expr) -> Expr:
        return build.apply(on_bool, a, b) if kind_of(a) == kind_of(b) == "bool" else plain(a, b)

    return combine


_ADD = _either("or", "add")
_MUL = _either("and", "mul")
_MIN = _either("and", "min")
_MAX = _either("or", "max")


def _add(a: Expr, b: Expr, alpha: Expr | None = None) -> Expr:
    return _ADD(a, b if alpha is None else _MUL(b, alpha))


def _sub(a: Expr, b: Expr, alpha: Expr | None = None) -> Expr:
    if kind_of(a) == kind_of(b) == "bool":
        raise UnsupportedOperation("truth values cannot be subtracted", remedy="Write a & ~b, or convert with .int().")
    a, b = agree(a, b)
    return build.sub(a, b if alpha is None else _MUL(b, alpha))


def _div(a: Expr, b: Expr, rounding_mode: str | None = None) -> Expr:
    a, b = number(a), number(b)
    if rounding_mode == "floor":
        return build.apply("floordiv", a, b)
    if rounding_mode == "trunc":
        if "float" in (kind_of(a), kind_of(b)):
            return _trunc(build.apply("div", a, b))
        quotient = build.apply("floordiv", build.apply("abs", a), build.apply("abs", b))
        opposite = build.apply("ne", build.apply("lt", a, Const(0, "int")), build.apply("lt", b, Const(0, "int")))
        return build.apply("where", opposite, build.neg(quotient), quotient)
    return build.apply("div", a, b)


def _fmod(a: Expr, b: Expr) -> Expr:
    a, b = number(a), number(b)
    return build.mul(build.apply("sign", a), build.apply("mod", build.apply("abs", a), build.apply("abs", b)))


def _pow(a: Expr, b: Expr) -> Expr:
    a, b = number(a), number(b)
    exact = isinstance(b, Const) and float(b.value).is_integer() and abs(b.value) <= LARGEST_UNROLLED_POWER
    if exact and isinstance(b, Const) and not isinstance(a, Const) and b.value != 0 and (kind_of(a) == "float" or b.value > 0):
        product = a
        for _ in range(abs(int(b.value)) - 1):
            product = build.mul(product, a)
        product = product if kind_of(b) == "int" else _float(product)
        return product if b.value > 0 else build.apply("div", build.ONE, product)
    if kind_of(a) == "int" and kind_of(b) == "int" and not (isinstance(a, Const) and isinstance(b, Const)):
        raise UnsupportedOperation("an integer to a traced integer power", remedy="Make one of them a float, as in 2.0 ** x, or shift.")
    return build.apply("pow", a, b)


def _where(condition: Expr, a: Expr, b: Expr) -> Expr:
    condition = cast(condition, "bool")
    a, b = agree(a, b)
    if kind_of(a) == kind_of(b) == "bool":
        chosen = build.apply("and", condition, a)
        return build.apply("or", chosen, build.apply("and", build.apply("not", condition), b))
    return build.apply("where", condition, a, b)


def _clamp(a: Expr, min: Expr | None = None, max: Expr | None = None) -> Expr:
    low = a if min is None else _MAX(a, min)
    return low if max is None else _MIN(low, max)


def _rounded(op: str) -> Callable[[Expr], Expr]:
    return lambda a: a if kind_of(a) != "float" else build.apply(op, a)


def _trunc(a: Expr) -> Expr:
    if kind_of(a) != "float":
        return a
    return build.apply("where", build.apply("lt", a, build.ZERO), build.apply("ceil", a), build.apply("floor", a))


def _gelu(a: Expr, approximate: str = "none") -> Expr:
    return build.apply("gelu" if approximate == "none" else "gelu_tanh", _float(a))


def _softplus(a: Expr, beta: Expr | None = None, threshold: Expr | None = None) -> Expr:
    del threshold  # torch switches to the identity there; the two agree to rounding
    if beta is None or build.is_const(beta, 1):
        return build.apply("softplus", _float(a))
    return build.apply("div", build.apply("softplus", build.mul(_float(a), beta)), beta)


def _silu(a: Expr) -> Expr:
    return build.mul(_float(a), build.apply("sigmoid", _float(a)))


def _leaky_relu(a: Expr, negative_slope: Expr = _LEAK) -> Expr:
    return build.apply("where", build.apply("gt", a, build.ZERO), a, build.mul(a, negative_slope))


def _scaled(op: str, factor: float) -> Callable[[Expr], Expr]:
    return lambda a: build.mul(build.apply(op, _float(a)), build.const(factor))


def _lerp(a: Expr, b: Expr, weight: Expr) -> Expr:
    return build.add(a, build.mul(weight, build.sub(b, a)))


def _isinf(a: Expr) -> Expr:
    return build.FALSE if kind_of(a) != "float" else build.apply("eq", build.apply("abs", a), build.INF)


POINTWISE: dict[str, Callable[..., Expr]] = {
    "add": _add,
    "sub": _sub,
    "rsub": lambda a, b, alpha=None: _sub(b, a, alpha),
    "mul": _MUL,
    "div": _div,
    "floordiv": _same("floordiv"),
    "mod": _same("mod"),
    "fmod": _fmod,
    "pow": _pow,
    "float_power": lambda a, b: _pow(_float(a), b),
    "neg": _same("neg"),
    "positive": lambda a: a,
    "abs": _same("abs"),
    "sign": _same("sign"),
    "square": lambda a: _MUL(number(a), number(a)),
    "reciprocal": lambda a: build.apply("div", build.ONE, _float(a)),
    "minimum": _MIN,
    "maximum": _MAX,
    "clamp": _clamp,
    "clamp_min": lambda a, min: _MAX(a, min),
    "clamp_max": lambda a, max: _MIN(a, max),
    "hardtanh": lambda a, min_val=_MINUS_ONE, max_val=build.ONE: _clamp(a, min_val, max_val),
    "where": _where,
    "masked_fill": lambda a, mask, value: _where(mask, value, a),
    "lerp": _lerp,
    **{op: _compare(op) for op in ("lt", "le", "gt", "ge", "eq", "ne")},
    "logical_and": _logical("and"),
    "logical_or": _logical("or"),
    "logical_not": _logical("not"),
    "logical_xor": lambda a, b: build.apply("ne", cast(a, "bool"), cast(b, "bool")),
    "bitwise_and": _bitwise("and", "bitand"),
    "bitwise_or": _bitwise("or", "bitor"),
    "bitwise_xor": _bitwise("ne", "bitxor"),
    "bitwise_not": _invert,
    "bitwise_left_shift": _shift("shl"),
    "bitwise_right_shift": _shift("shr"),
    **{op: _transcendental(op) for op in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "erf", "tanh", "sigmoid")},
    "logaddexp": _transcendental("logaddexp"),
    "safe_div": _transcendental("safe_div"),
    "log10": _scaled("log", 1 / math.log(10)),
    "tan": lambda a: build.apply("div", build.apply("sin", _float(a)), build.apply("cos", _float(a))),
    "relu": _same("relu"),
    "gelu": _gelu,
    "softplus": _softplus,
    "silu": _silu,
    "log_sigmoid": lambda a: build.neg(build.apply("softplus", build.neg(_float(a)))),
    "leaky_relu": _leaky_relu,
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
    "trunc": _trunc,
    "frac": lambda a: build.sub(a, _trunc(a)),
    "isinf": _isinf,
}
"""Every pointwise operation by its plainest torch name. Arguments are expressions; optional ones may be None or a word."""

WORDED = frozenset(("div", "gelu"))
"""Those with an option that is a word: rounding_mode, approximate."""

ALIASES: dict[str, str] = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "negative": "neg",
    "absolute": "abs",
    "sgn": "sign",
    "clip": "clamp",
    "max": "maximum",
    "min": "minimum",
    "fmax": "maximum",
    "fmin": "minimum",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "not_equal": "ne",
    "special_expit": "sigmoid",
    "special_exp2": "exp2",
    "special_erf": "erf",
    "logsigmoid": "log_sigmoid",
    "fix": "trunc",
}


def operation(name: str) -> str | None:
    """The entry of `POINTWISE` that a torch name stands for."""
    name = ALIASES.get(name, name)
    return name if name in POINTWISE else None

"""The meaning of pointwise torch functions in the IR: names and their expressions.

Takes and gives bare expressions, independent of torch, traced values and user frames; `tracer` broadcasts the arguments. Kinds are
promoted explicitly: a bool combined with a number becomes `to_int` or `to_float`, and an integer argument of a transcendental function
becomes `to_float`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

from attngen.errors import UnsupportedOperation
from attngen.frontend.torch_functions.activations import ACTIVATIONS
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Kind, kind_of
from attngen.ir.traverse import free_axes, reads

LARGEST_UNROLLED_POWER = 4
LARGEST_FAST_CAP = 1000.0
"""The fast tanh has an error of 2e-7. Caps up to this one scale it to 2e-4, which is negligible beside the rounding of fp16."""
_LEAK = build.const(0.01)


def number(expr: Expr) -> Expr:
    """A bool as 0 or 1; numbers unchanged."""
    return cast(expr, "int") if kind_of(expr) == "bool" else expr


def agree(*args: Expr) -> tuple[Expr, ...]:
    """Values promoted to the widest kind."""
    kinds = [kind_of(arg) for arg in args]
    if all(kind == "bool" for kind in kinds):
        return args
    target: Kind = "float" if "float" in kinds else "int"
    return tuple(cast(arg, target) if kind == "bool" else arg for arg, kind in zip(args, kinds, strict=True))


def cast(expr: Expr, kind: Kind) -> Expr:
    """The value cast to another kind; a literal stays a literal."""
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
    if "float" not in (kind_of(a), kind_of(b)):
        return build.mul(build.apply("sign", a), build.apply("mod", build.apply("abs", a), build.apply("abs", b)))
    size = build.apply("abs", _float(b))
    return build.apply("where", build.apply("lt", a, build.ZERO), build.neg(_rest(build.neg(a), size)), _rest(a, size))


def _rest(a: Expr, b: Expr) -> Expr:
    return build.apply("mod", _float(a), b)


def _pow(a: Expr, b: Expr) -> Expr:
    """Integer powers of integers stay integers; small integer powers become products, which separate."""
    a, b = number(a), number(b)
    if kind_of(a) == kind_of(b) == "int":
        return _int_pow(a, b)
    if isinstance(b, Const) and not isinstance(a, Const) and float(b.value).is_integer():
        if 0 < b.value <= LARGEST_UNROLLED_POWER:
            return _product(_float(a), int(b.value))
        if b.value == -1:
            return build.apply("div", build.ONE, a)
    return build.apply("pow", a, b)


def _int_pow(a: Expr, b: Expr) -> Expr:
    if not isinstance(b, Const):
        return build.apply("int_pow", a, b)
    if b.value < 0:
        raise UnsupportedOperation("an integer to a negative power", remedy="Make it a float first, as in x.float() ** -1.")
    if isinstance(a, Const):
        return Const(int(a.value) ** int(b.value), "int")
    # Higher powers of positions overflow the 32 bits of products in kernels.
    return build.apply("int_pow", a, b) if b.value > 2 else _product(a, int(b.value)) if b.value else Const(1, "int")


def _product(a: Expr, times: int) -> Expr:
    result = a
    for _ in range(times - 1):
        result = build.mul(result, a)
    return result


def _where(condition: Expr, a: Expr, b: Expr) -> Expr:
    condition = cast(condition, "bool")
    a, b = agree(a, b)
    if kind_of(a) == kind_of(b) == "bool":
        chosen = build.apply("and", condition, a)
        return build.apply("or", chosen, build.apply("and", build.apply("not", condition), b))
    return build.apply("where", condition, a, b)


def _clamp(a: Expr, min: Expr | None = None, max: Expr | None = None) -> Expr:
    bounds = [number(bound) for bound in (min, max) if bound is not None]
    a = number(a)
    if all(kind_of(arg) == "int" for arg in (a, *bounds)):
        low = a if min is None else _MAX(a, number(min))
        return low if max is None else _MIN(low, number(max))
    op = "clamp" if len(bounds) == 2 else "clamp_min" if max is None else "clamp_max"
    return build.apply(op, _float(a), *map(_float, bounds)) if bounds else a


def _tanh(a: Expr) -> Expr:
    a = _float(a)
    return build.apply("tanh_small" if _is_scaled_down(a) else "tanh", a)


def _is_scaled_down(expr: Expr, scale: float = 1.0) -> bool:
    """Whether a product or quotient may be small for all pairs of positions: by a number that is small, or known only at calls."""
    match expr:
        case Apply(op="neg", args=(a,)):
            return _is_scaled_down(a, scale)
        case Apply(op="div", args=(a, Const(value=value))) if value:
            return _is_scaled_down(a, scale / abs(value))
        case Apply(op="mul", args=(Const(value=value), a)) | Apply(op="mul", args=(a, Const(value=value))):
            return _is_scaled_down(a, scale * abs(value))
        case Apply(op="mul" | "div", args=(a, b)):
            wide, narrow = set(free_axes(a)), set(free_axes(b))
            return scale < 1 / LARGEST_FAST_CAP or bool((reads(a) and wide < narrow) or (reads(b) and narrow < wide))
        case _:
            return scale < 1 / LARGEST_FAST_CAP


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


def extreme_of(op: str, values: Sequence[Expr]) -> Expr:
    """The largest or smallest of some values; ties share the gradient, as in torch.amax."""
    found = reduce(POINTWISE[op], values)
    if kind_of(found) != "float" or len(values) == 1:
        return found
    held = [build.apply("eq", value, found) for value in values]
    total = build.total([build.apply("where", here, value, build.ZERO) for here, value in zip(held, values, strict=True)])
    return build.apply("div", total, build.total([cast(here, "float") for here in held]))


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
    "clamp_min": lambda a, min: _clamp(a, min=min),
    "clamp_max": lambda a, max: _clamp(a, max=max),
    "fmax": lambda a, b: _clamp(a, min=b),
    "fmin": lambda a, b: _clamp(a, max=b),
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
    **{op: _transcendental(op) for op in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "erf", "sigmoid")},
    **{op: _transcendental(op) for op in ("log1p", "expm1", "atan", "atan2", "asinh")},
    "tanh": _tanh,
    "tanh_approx": _transcendental("tanh"),
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
    **ACTIVATIONS,
}
"""Every pointwise operation by its canonical torch name. Arguments are expressions; optional ones may be None or a string."""

WORDED = frozenset(("div", "gelu"))
"""Those with a string option: rounding_mode, approximate."""

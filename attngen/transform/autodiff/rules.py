"""Derivatives of pointwise operations: one rule per op.

At discontinuities of the derivative they agree with PyTorch: `max` and `min` split the gradient equally at ties, a clamp passes it at its
bounds, `hardtanh` does not, `relu` and `abs` have derivative 0 at 0; rounding to integers and comparisons have none. A cast rounds the
gradient to its type too. A power has derivative 0 in its base where the exponent is 0, and in its exponent where the base is 0 and the
exponent not negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attngen.ir import build
from attngen.ir.algebra import factors, product
from attngen.ir.build import apply, const, mul, neg, sub
from attngen.ir.expr import Apply, Const, Expr, Read, kind_of
from attngen.ir.signs import is_normal

Rule = Callable[[tuple[Expr, ...], Expr, Expr], tuple[Expr | None, ...]]
"""(arguments, value of the node, adjoint of the node) -> adjoint of each argument."""


def _quotient(d: Expr, by: Expr) -> Expr:
    """d / by, cancelling an equal factor of d, so that `c * f(x / c)` has the derivative of f."""
    parts = list(factors(d))
    if by not in parts:
        return apply("div", d, by)
    parts.remove(by)
    return product(parts)


def _safe_div(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
    share = build.safe_div(d, x[1])
    return share, neg(mul(share, y))


def _div(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
    share = _quotient(d, x[1])
    return share, neg(mul(share, y))


def _pow(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr | None, ...]:
    base, power = x
    if isinstance(power, Const):
        return mul(d, mul(power, apply("pow", base, const(float(power.value) - 1.0)))), None
    to_base = mul(d, mul(power, apply("pow", base, sub(power, build.ONE))))
    to_power = mul(d, mul(y, build.log(base)))
    if is_normal(base):
        return to_base, to_power
    zero = apply("and", apply("eq", base, build.ZERO), apply("ge", power, build.ZERO))
    return _unless(apply("eq", power, build.ZERO), to_base), _unless(zero, to_power)


def _mod(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
    return d, neg(mul(d, apply("floordiv", x[0], x[1])))


def _unless(condition: Expr, d: Expr) -> Expr:
    return apply("where", condition, build.ZERO, d)


def _shared(loses: str) -> Rule:
    """The rule of max or min: the side for which the comparison `loses` holds gets no gradient."""

    def rule(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
        a, b = x
        tie, half = apply("eq", a, b), mul(d, const(0.5))
        return apply("where", tie, half, _unless(apply(loses, a, b), d)), apply("where", tie, half, _unless(apply(loses, b, a), d))

    return rule


def _clamp(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr, Expr]:
    a, low, high = x
    below = apply("and", apply("lt", low, high), apply("lt", a, low))
    above = apply("or", apply("lt", high, low), apply("gt", a, high))
    inside = apply("and", apply("ge", a, low), apply("le", a, high))
    return apply("where", inside, d, build.ZERO), apply("where", below, d, build.ZERO), apply("where", above, d, build.ZERO)


def _bounded(inside: str) -> Rule:
    """The rule of a one-sided clamp, by the comparison that holds within its bound, inclusive."""

    def rule(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
        holds = apply(inside, *x)
        return apply("where", holds, d, build.ZERO), _unless(holds, d)

    return rule


def _hardtanh(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, None, None]:
    a, low, high = x
    return _unless(apply("or", apply("le", a, low), apply("ge", a, high)), d), None, None


def _atan2(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr, Expr]:
    a, b = x
    share = apply("div", d, build.add(mul(a, a), mul(b, b)))
    return mul(share, b), neg(mul(share, a))


def _gelu(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr]:
    a = x[0]
    cdf = mul(const(0.5), build.add(build.ONE, apply("erf", mul(a, const(math.sqrt(0.5))))))
    density = mul(const(1.0 / math.sqrt(2.0 * math.pi)), build.exp(mul(const(-0.5), mul(a, a))))
    return (mul(d, build.add(cdf, mul(a, density))),)


def _gelu_tanh(x: tuple[Expr, ...], y: Expr, d: Expr) -> tuple[Expr]:
    a = x[0]
    c = math.sqrt(2.0 / math.pi)
    t = apply("tanh", mul(const(c), build.add(a, mul(const(0.044715), mul(a, mul(a, a))))))
    inner = mul(const(c), build.add(build.ONE, mul(const(3 * 0.044715), mul(a, a))))
    slope = mul(mul(const(0.5), a), mul(sub(build.ONE, mul(t, t)), inner))
    return (mul(d, build.add(mul(const(0.5), build.add(build.ONE, t)), slope)),)


RULES: dict[str, Rule] = {
    "add": lambda x, y, d: (d, d),
    "sub": lambda x, y, d: (d, neg(d)),
    "mul": lambda x, y, d: (mul(d, x[1]), mul(d, x[0])),
    "div": _div,
    "safe_div": _safe_div,
    "neg": lambda x, y, d: (neg(d),),
    "pow": _pow,
    "mod": _mod,
    "min": _shared("gt"),
    "max": _shared("lt"),
    "clamp": _clamp,
    "clamp_min": _bounded("ge"),
    "clamp_max": _bounded("le"),
    "hardtanh": _hardtanh,
    "abs": lambda x, y, d: (mul(d, apply("sign", x[0])),),
    "exp": lambda x, y, d: (mul(d, y),),
    "exp2": lambda x, y, d: (mul(mul(d, y), const(math.log(2.0))),),
    "expm1": lambda x, y, d: (mul(d, build.add(y, build.ONE)),),
    "log": lambda x, y, d: (apply("div", d, x[0]),),
    "log1p": lambda x, y, d: (apply("div", d, build.add(x[0], build.ONE)),),
    "log2": lambda x, y, d: (apply("div", d, mul(x[0], const(math.log(2.0)))),),
    "sqrt": lambda x, y, d: (apply("div", mul(d, const(0.5)), y),),
    "rsqrt": lambda x, y, d: (apply("div", mul(mul(d, const(-0.5)), y), x[0]),),
    "sin": lambda x, y, d: (mul(d, apply("cos", x[0])),),
    "cos": lambda x, y, d: (neg(mul(d, apply("sin", x[0]))),),
    "erf": lambda x, y, d: (mul(d, mul(const(2.0 / math.sqrt(math.pi)), build.exp(neg(mul(x[0], x[0]))))),),
    "atan": lambda x, y, d: (apply("div", d, build.add(mul(x[0], x[0]), build.ONE)),),
    "atan2": _atan2,
    "asinh": lambda x, y, d: (mul(d, apply("rsqrt", build.add(mul(x[0], x[0]), build.ONE))),),
    **dict.fromkeys(("tanh", "tanh_small"), lambda x, y, d: (mul(d, sub(build.ONE, mul(y, y))),)),
    "sigmoid": lambda x, y, d: (mul(d, mul(y, sub(build.ONE, y))),),
    "softplus": lambda x, y, d: (mul(d, apply("sigmoid", x[0])),),
    "relu": lambda x, y, d: (apply("where", apply("gt", x[0], build.ZERO), d, build.ZERO),),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "logaddexp": lambda x, y, d: (mul(d, apply("sigmoid", sub(x[0], x[1]))), mul(d, apply("sigmoid", sub(x[1], x[0])))),
    "float16": lambda x, y, d: (apply("float16", d),),
    "bfloat16": lambda x, y, d: (apply("bfloat16", d),),
    "to_float": lambda x, y, d: (d,),
}


def gradients(body: Expr, value: Expr, adjoint: Expr) -> dict[Read, Expr]:
    """Adjoint of every float read of `body`, given the adjoint of its value.

    Args:
        body: the expression.
        value: an expression equal to `body` but cheaper (a read of the step), for derivatives that need the value.
        adjoint: adjoint of the value.
    """
    found: dict[Read, Expr] = {}
    _accumulate(body, value, adjoint, found)
    return found


def _accumulate(node: Expr, value: Expr, adjoint: Expr, found: dict[Read, Expr]) -> None:
    if kind_of(node) != "float":
        return
    match node:
        case Read():
            _add(found, node, adjoint)
        case Apply(op="where", args=(condition, first, second)):
            # Select the slope, not the adjoint: 0 times the slope of the other branch may be NaN.
            chosen = gradients(first, first, build.ONE)
            other = gradients(second, second, build.ONE)
            for read in dict.fromkeys((*chosen, *other)):
                slope = apply("where", condition, chosen.get(read, build.ZERO), other.get(read, build.ZERO))
                _add(found, read, mul(adjoint, slope))
        case Apply(op=op, args=args) if op in RULES:
            for arg, part in zip(args, RULES[op](args, value, adjoint), strict=True):
                if part is not None:
                    _accumulate(arg, arg, part, found)
        case _:
            return


def _add(found: dict[Read, Expr], read: Read, part: Expr) -> None:
    found[read] = build.add(found[read], part) if read in found else part

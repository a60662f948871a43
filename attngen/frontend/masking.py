"""Minus infinity that stands for "absent" becomes a predicate.

`where(P, x, -inf)` under a softmax says which scores exist. The IR says so in the step's `where`, so that no later arithmetic meets an
infinity.
"""

from __future__ import annotations

from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr


def lift_missing(expr: Expr) -> tuple[Expr, Expr | None]:
    """Split a score into the value where it exists and the condition for that (None: always).

    Sums and positive factors pass absence on: `where(P, x, -inf) + bias` exists where P holds. Other operations do not: tanh(-inf) is a
    number.
    """
    match expr:
        case Apply(op="where", args=(condition, value, absent)) if absent == build.NEG_INF:
            body, inner = lift_missing(value)
            return body, build.both(condition, inner)
        case Apply(op="where", args=(condition, absent, value)) if absent == build.NEG_INF:
            body, inner = lift_missing(value)
            return body, build.both(build.apply("not", condition), inner)
        case Apply(op="add", args=(a, b)):
            (left, first), (right, second) = lift_missing(a), lift_missing(b)
            return (expr, None) if first is second is None else (build.add(left, right), build.both(first, second))
        case Apply(op="sub", args=(a, b)):
            left, first = lift_missing(a)
            return (expr, None) if first is None else (build.sub(left, b), first)
        case Apply(op="mul" | "div", args=(a, Const(value=factor))) if factor > 0:
            body, exists = lift_missing(a)
            return (expr, None) if exists is None else (build.apply(expr.op, body, expr.args[1]), exists)
        case Apply(op="mul", args=(Const(value=factor), b)) if factor > 0:
            body, exists = lift_missing(b)
            return (expr, None) if exists is None else (build.mul(expr.args[0], body), exists)
        case _:
            return expr, None

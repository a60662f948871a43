"""Masks with gaps: pairs whose positions leave equal remainders.

Where a mask holds for equal remainders by D only, taking tokens of one remainder after the other closes the gaps.
"""

from __future__ import annotations

from attngen.analysis.affine import linear, single
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index
from attngen.ir.traverse import free_axes


def common_divisor(predicate: Expr | None, first: str, second: str) -> Expr | None:
    """D, where `predicate` implies that positions along two axes have equal remainders by it; None where it does not say so.

    Args:
        predicate: which pairs exist.
        first, second: the two axes.
    """
    for part in build.conjuncts(predicate) if predicate is not None else ():
        match part:
            case Apply(op="eq", args=(Apply(op="mod", args=(x, divisor)), zero)) if build.is_const(zero, 0) and not free_axes(divisor):
                if isinstance(x, Apply) and x.op == "abs":
                    x = x.args[0]
                forms = (single(Index(first)).plus(single(Index(second)), -1), single(Index(second)).plus(single(Index(first)), -1))
                if any(not linear(x).plus(form, -1).terms and linear(x).constant == 0 for form in forms):
                    return divisor
            case Apply(op="eq", args=(Apply(op="mod", args=(Index(axis=a), divisor)), Apply(op="mod", args=(Index(axis=b), other)))):
                if {a, b} == {first, second} and divisor == other and not free_axes(divisor):
                    return divisor
            case _:
                pass
    return None

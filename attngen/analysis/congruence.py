"""Dilated masks: those that hold only for positions congruent modulo D.

Grouping the tokens by residue class makes such a mask dense.
"""

from __future__ import annotations

from attngen.analysis.affine import linear, single
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index
from attngen.ir.traverse import free_axes


def common_divisor(predicate: Expr | None, first: str, second: str) -> Expr | None:
    """The D for which a conjunct of `predicate` says that positions along two axes are congruent modulo D; None without such a conjunct.

    Args:
        predicate: the mask.
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

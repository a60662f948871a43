"""Toeplitz positions: those that depend on the difference of two indices only.

table[m - n + extent(n)]        min(abs(n - m), 128)        (m - n) // 8        offset[n - m]
"""

from __future__ import annotations

from attngen.analysis.affine import linear
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index, kind_of
from attngen.ir.traverse import free_axes, rewrite

_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
_LINEAR = frozenset(("add", "sub", "mul", "neg"))
_DISTANCE = Index(" distance")


def is_diagonal(expr: Expr, first: str, second: str) -> bool:
    """Whether an expression is invariant, as far as its normal form shows, when both indices grow by one.

    Args:
        expr: any expression.
        first, second: the two axes.
    """
    shifted = build.add(Index(second), _DISTANCE)
    moved = rewrite(expr, lambda node: shifted if node == Index(first) else None)
    return second not in free_axes(rewrite(moved, _normal))


def _normal(node: Expr) -> Expr | None:
    """Integer sums in linear form, comparisons as those of a difference with 0."""
    match node:
        case Apply(op=op, args=(a, b)) if op in _COMPARISONS and kind_of(a) == kind_of(b) == "int":
            return Apply(op, (linear(a).plus(linear(b), -1).expr(), build.const(0)))
        case Apply(op=op) if op in _LINEAR and kind_of(node) == "int":
            return linear(node).expr()
        case _:
            return None

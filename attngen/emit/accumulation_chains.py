"""Sums of matrix products that share one accumulator.

    s_0[m,n] = sum[d_0] q[m,d_0] * k[n,d_0]            s = tl.dot(q_0, tl.trans(k_0))
    s_1[m,n] = sum[d_1] q[m,d_1] * k[n,d_1]     ->     s = tl.dot(q_1, tl.trans(k_1), s)
    s[m,n]   = s_0[m,n] + s_1[m,n]

The products may be those of the pieces of one axis, or of different operands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr
from attngen.ir.traverse import step_reads
from attngen.kernel.partition import Kernel, addends


@dataclass(frozen=True, slots=True)
class Chain:
    """Products, in order, that are added up in the value of the step `total`."""

    total: str
    products: tuple[str, ...]


def chains(kernel: Kernel, masked: Mapping[str, Expr]) -> dict[str, Chain]:
    """The chain of each product that nothing but a sum of products reads, and of each such sum.

    Args:
        kernel: whose steps are in order.
        masked: tile sums that must be 0 under a mask; a chain has one mask.
    """
    pair = {kernel.resident, kernel.streamed}
    readers = Counter(name for step in kernel.steps for name in step_reads(step))
    products = {step.name for step in kernel.steps if step.reduce == "sum" and pair <= set(step.axes) and kernel.streamed not in step.over}
    found: dict[str, Chain] = {}

    def terms(step: Einsum) -> tuple[str, ...]:
        """The products behind a sum of them; () if something else is in it, or anything else reads one, or it adds one of them twice."""
        inside: list[str] = []
        added = Counter(addends(step))
        for name, times in added.items():
            own = times == 1 and readers[name] == 1 and name not in kernel.outputs
            if not own or (name not in products and (name not in found or found[name].total != name)):
                return ()
            inside += (name,) if name in products else found[name].products
        return tuple(inside)

    for step in kernel.steps:
        inside = terms(step) if pair <= set(step.axes) else ()
        if len(inside) > 1 and len({masked.get(name) for name in inside}) == 1:
            chain = Chain(step.name, inside)
            nested = {found[name].total for name in addends(step) if name in found}
            found |= {name: chain for name, other in found.items() if other.total in nested}
            found |= dict.fromkeys((step.name, *inside), chain)
    return found

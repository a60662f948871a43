"""What rewrites save in all, counted in the kernels: the work of one pair of positions before each rewrite and after it.

Operations are those of the arithmetic units, exponentials those of the special function unit, both as the schedule prices them; what
depends on a row or a key alone is none of a pair. A product counts its multiply-adds as two flops.
"""

from __future__ import annotations

from attngen.facts.kernel_facts import kernel_facts
from attngen.facts.work import OPERATIONS
from attngen.ir.expr import Apply
from attngen.ir.traverse import free_axes, occurrences
from attngen.kernel.partition import Kernel
from attngen.pipeline import Program, rewriting
from attngen.targets.sfu_cost import SFU_OPS


def savings(program: Program) -> dict[str, tuple[str, ...]]:
    """Lines for each rewrite that changes what a pair of positions costs: "operations 1 less, flops of products 32 more in forward"."""
    found: dict[str, tuple[str, ...]] = {}
    before = program.parts
    for name, after, _ in rewriting(program):
        roles: dict[str, list[str]] = {}
        for old, new in zip(before, after, strict=True):
            if text := _changes(old, new):
                roles.setdefault(text, []).append(new.role)
        found[name] = tuple(f"{text} in {', '.join(where)}" for text, where in roles.items())
        before = after
    return {name: lines for name, lines in found.items() if lines}


def _changes(old: Kernel, new: Kernel) -> str:
    pairs = zip(_costs(old).items(), _costs(new).values(), strict=True)
    return ", ".join(f"{what} {abs(now - was):g} {'less' if now < was else 'more'}" for (what, was), now in pairs if now != was)


def _costs(kernel: Kernel) -> dict[str, float]:
    pair = {kernel.resident, kernel.streamed}
    folded = {bias_dot.step for bias_dot in kernel.bias_dots}
    steps = [step for step in kernel.steps if pair <= {*step.axes, *step.over} and step.name not in folded]
    found = [(node, count) for step in steps for node, count in occurrences(step.body).items() if pair <= set(free_axes(node))]
    nodes = [(node, count) for node, count in found if isinstance(node, Apply)]
    simple = sum(count * (OPERATIONS.get(node.op, 1) - _is_fused(node)) for node, count in nodes if node.op not in SFU_OPS)
    held = kernel_facts(kernel).work
    return {
        "operations": simple,
        "exponentials and the like": sum(count * SFU_OPS.get(node.op, 0) for node, count in nodes),
        "values read": held.pairs,
        "sums and maxima of rows": held.sums,
        "flops of products": 2 * held.bias_columns,
    }


def _is_fused(node: Apply) -> bool:
    """Whether a sum takes in a product: both are one instruction."""
    return node.op in ("add", "sub") and any(isinstance(arg, Apply) and arg.op == "mul" for arg in node.args)

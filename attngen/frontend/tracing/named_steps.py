"""CSE across the steps of a trace, and renaming of steps.

A part of a body is worth a step of its own if at least two steps contain it and it holds an operation that costs more than an addition.
Sharing within one body is left to the stages that emit code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from attngen.frontend.tracing.shared_values import replace_parts
from attngen.frontend.tracing.trace import Trace
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Read, kind_of
from attngen.ir.traverse import free_axes, rewrite, walk
from attngen.source import naming

_COSTLY = frozenset(
    (
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "log2",
        "sqrt",
        "rsqrt",
        "sin",
        "cos",
        "atan",
        "atan2",
        "asinh",
        "erf",
        "tanh",
        "tanh_small",
        "sigmoid",
        "softplus",
        "gelu",
        "gelu_tanh",
        "logaddexp",
        "pow",
        "int_pow",
    )
)


def name_shared(trace: Trace) -> None:
    """Turn costly parts that two steps have in common into steps before the first of them."""
    while (part := _largest_shared(trace)) is not None:
        first = next(position for position, step in enumerate(trace.steps) if _contains(step, part))
        axes = trace.order(free_axes(part))
        user = trace.steps[first]
        step = Einsum(trace.fresh("t", first=1), axes, part, loc=naming(user.loc, f"a part of {user.called}"))
        table: dict[Expr, Expr] = {part: build.read(step.name, axes, kind_of(part))}
        trace.steps[first:] = [step, *(replace(later, body=replace_parts(later.body, table)) for later in trace.steps[first:])]


def _largest_shared(trace: Trace) -> Expr | None:
    counts: Counter[Expr] = Counter()
    sizes: dict[Expr, int] = {}
    for step in trace.steps:
        for part in dict.fromkeys(node for node in walk(step.body) if isinstance(node, Apply)):
            nodes = list(walk(part))
            if free_axes(part) and any(isinstance(node, Apply) and node.op in _COSTLY for node in nodes):
                counts[part] += 1
                sizes[part] = len(nodes)
    shared = [part for part, count in counts.items() if count > 1]
    return max(shared, key=lambda part: sizes[part], default=None)


def _contains(step: Einsum, part: Expr) -> bool:
    return any(node == part for node in walk(step.body))


def rename(trace: Trace, old: str, new: str) -> Callable[[Expr], Expr]:
    """Call a step by another name, wherever it is read. Returns the same change for expressions that are no steps yet."""

    def rule(node: Expr) -> Expr | None:
        return Read(new, node.at, node.kind) if isinstance(node, Read) and node.tensor == old else None

    def renamed(step: Einsum) -> Einsum:
        where = None if step.where is None else rewrite(step.where, rule)
        return replace(step, name=new if step.name == old else step.name, body=rewrite(step.body, rule), where=where)

    trace.steps[:] = [renamed(step) for step in trace.steps]
    trace.release(old)
    trace.named = {rewrite(expr, rule): rewrite(read, rule) for expr, read in trace.named.items()}
    return lambda expr: rewrite(expr, rule)

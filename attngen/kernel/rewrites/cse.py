"""CSE: a tile expression that occurs several times in a kernel becomes a step of its own.

x[m,n]  = c * tanh(s[m,n] / c)                         s_tanh[m,n] = tanh(s[m,n] / c)
ds[m,n] = dx[m,n] * (1.0 - tanh(s[m,n] / c)            x[m,n]      = c * s_tanh[m,n]
                         * tanh(s[m,n] / c))    ->     ds[m,n]     = dx[m,n] * (1.0 - s_tanh[m,n] * s_tanh[m,n])
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Read, Start, kind_of
from attngen.ir.names import Names
from attngen.ir.traverse import children, free_axes, names_read, rewrite, walk
from attngen.kernel.partition import Kernel

# Names of steps, by the operation that they apply.
_WORDS = {"mul": "scaled", "div": "scaled", "safe_div": "scaled", "add": "shifted", "sub": "shifted"}
_FREE = frozenset(("neg", "to_float"))


def cse(kernel: Kernel) -> Kernel:
    """Takes and gives a kernel with the same outputs. Expressions that read a running maximum are not shared."""
    axes = {axis: None for step in kernel.steps for axis in (*step.axes, *step.over)}
    running = {gauge.name for gauge in kernel.gauges}
    parts = [part for part, uses in _uses(kernel).items() if uses > 1 and _is_tile(part, kernel) and not running & set(names_read(part))]
    names = Names(kernel.cascade)
    known: dict[Expr, Read] = {}
    steps: list[Einsum] = []

    def rule(node: Expr) -> Expr | None:
        return known.get(node)

    def define(part: Expr, step: Einsum) -> None:
        here = tuple(axis for axis in axes if axis in free_axes(part))
        name = names.fresh(_name(part))
        steps.append(Einsum(name, here, rewrite(part, rule), loc=step.loc))
        known[rewrite(part, rule)] = known[part] = build.read(name, here)

    for step in kernel.steps:
        inside = set(walk(step.body))
        for part in reversed(parts):  # the smaller ones first
            own = part == step.body and step.reduce is None and step.where is None
            if part in inside and part not in known and not own:
                define(part, step)
        steps.append(replace(step, body=rewrite(step.body, rule)))
        if step.body in parts and step.body not in known:
            known[step.body] = build.read(step.name, step.axes)
    return replace(kernel, steps=tuple(steps))


def _uses(kernel: Kernel) -> dict[Expr, int]:
    """The number of occurrences of each subexpression in distinct parents; larger ones precede those they contain."""
    seen: dict[Expr, None] = {}
    found: Counter[Expr] = Counter()

    def visit(expr: Expr) -> None:
        found[expr] += 1
        if expr not in seen:
            for child in children(expr):
                visit(child)
            seen[expr] = None

    for step in kernel.steps:
        visit(step.body)
    return {expr: found[expr] for expr in reversed(seen)}


def _is_tile(part: Expr, kernel: Kernel) -> bool:
    """Whether a part is a computed float without feature axes, along both sequence axes or relative to the start of a tile."""
    axes = set(free_axes(part))
    computed = isinstance(part, Apply) and part.op not in _FREE and kind_of(part) == "float"
    whole = {kernel.resident, kernel.streamed} <= axes
    return computed and (whole or any(isinstance(node, Start) for node in walk(part))) and not axes & set(kernel.features)


def _name(part: Expr) -> str:
    """A name from the first tensor read and the operation."""
    assert isinstance(part, Apply)
    first = next((name for name in names_read(part)), "tile")
    return f"{first}_{_WORDS.get(part.op, part.op)}"

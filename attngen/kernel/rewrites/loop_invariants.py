"""Row-invariant functions of saved statistics, hoisted into the preprocess kernel: dK/dV would recompute them for every KV tile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Index, Read, kind_of
from attngen.ir.names import Names
from attngen.ir.traverse import occurrences, reads, rewrite, walk


def hoist_row_values(cascade: Cascade, saved: Collection[str], axes: tuple[str, ...]) -> tuple[Cascade, tuple[str, ...]]:
    """The gradient cascade with the largest such functions as steps of their own, and the names of these.

    Args:
        cascade: that of the gradients.
        saved: names of the saved statistics.
        axes: the axes of the statistics and of the new steps.
    """
    names, found, steps = Names(cascade), dict[Expr, Einsum](), list[Einsum]()
    for step in cascade.steps:
        inside = dict.fromkeys(node for node in walk(step.body) if _is_row_value(node, saved, axes))
        held = {inner for node in inside for inner in walk(node) if inner is not node}
        largest = {node for node in inside if node not in held}
        for node in (node for node in inside if node in largest and node not in found):
            name = names.fresh(f"{reads(node)[0].tensor}_safe")
            found[node] = Einsum(name, axes, node, loc=step.loc)
            steps.append(found[node])

        def rule(node: Expr, largest: set[Expr] = largest) -> Expr | None:
            return build.read(found[node].name, axes) if node in largest else None

        steps.append(replace(step, body=rewrite(step.body, rule)))
    return replace(cascade, steps=tuple(steps)), tuple(step.name for step in found.values())


def _is_row_value(node: Expr, saved: Collection[str], axes: tuple[str, ...]) -> bool:
    """Whether a node is a float `where` of saved statistics at their own axes, as masks produce it."""
    if not isinstance(node, Apply) or node.op != "where" or kind_of(node) != "float":
        return False
    own = tuple(Index(axis) for axis in axes)
    parts = occurrences(node).items()
    inner = [(read, count) for read, count in parts if isinstance(read, Read)]
    indexes = sum(count for place, count in parts if isinstance(place, Index))
    finished = bool(inner) and all(read.tensor in saved and read.at == own for read, _ in inner)
    return finished and indexes == sum(count for _, count in inner) * len(axes)

"""Preparation for streaming: the axes of loop-carried state, and maxima that are values rather than shifts.

A program works at one position of the grid, so loop-carried values and saved statistics have all grid axes, whatever the user wrote.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.analysis.predicates import mask_of
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import inline, live_steps, names_read, rewrite, step_reads


def split_maxima(cascade: Cascade, streamed: str) -> tuple[Cascade, frozenset[str]]:
    """The cascade, and the maxima over the streamed axis whose value matters: outputs, and those that no step along the axis reads. All
    others are shifts; a maximum that is both becomes two steps."""
    names = Names(cascade)
    copies: dict[str, Einsum] = {}
    values: set[str] = set()
    for step in cascade.steps:
        if step.reduce == "max" and streamed in step.over:
            shifts = _read_along(cascade, step.name, streamed)
            values |= set() if shifts and step.name not in cascade.outputs else {step.name}
            copies |= {step.name: replace(step, name=names.fresh(step.name))} if shifts and step.name in cascade.outputs else {}

    def rule(node: Expr) -> Expr | None:
        return replace(node, tensor=copies[node.tensor].name) if isinstance(node, Read) and node.tensor in copies else None

    steps: list[Einsum] = []
    for step in cascade.steps:
        where = None if step.where is None else rewrite(step.where, rule)
        steps += [replace(step, body=rewrite(step.body, rule), where=where), *([copies[step.name]] if step.name in copies else [])]
    return replace(cascade, steps=tuple(steps)), frozenset(values)


def _read_along(cascade: Cascade, name: str, streamed: str) -> bool:
    """Whether a step along the streamed axis depends on a row value."""
    reached = {name}
    for step in cascade.steps:
        if reached & set(step_reads(step)):
            if streamed in (*step.axes, *step.over):
                return True
            reached.add(step.name)
    return False


def inline_grid_steps(cascade: Cascade, sequence: set[str]) -> Cascade:
    """Inline pointwise steps along grid axes only, so that their gradients become one partial per row."""
    bodies: dict[str, Expr] = {}
    steps: list[Einsum] = []
    for step in cascade.steps:
        step = replace(step, body=inline(step.body, bodies), where=None if step.where is None else inline(step.where, bodies))
        if step.reduce is None and step.where is None and not sequence & set(step.axes) and step.name not in cascade.outputs:
            bodies[step.name] = step.body
        else:
            steps.append(step)
    return replace(cascade, steps=tuple(steps))


def broadcast_over_grid(cascade: Cascade, resident: str, streamed: str, grid: tuple[str, ...]) -> Cascade:
    """Broadcast steps over grid axes. Steps along both sequence axes take the grid axes of all their readers, so that their gradients
    belong to one program; reductions over keys and their dependents take all grid axes, since every program computes its own. Outputs keep
    their axes: the steps that they depend on are duplicated if others read them."""
    cascade, sequence = _exponents_named(cascade, {*grid, resident}, streamed), {resident, streamed}
    wide = _wide(cascade, resident, streamed, grid)
    for step in reversed(cascade.steps):
        spaces = [{*wide.get(other.name, other.axes), *other.over} for other in cascade.steps if step.name in step_reads(other)]
        if sequence <= set(step.axes) and step.name not in cascade.outputs and spaces:
            shared = set[str].intersection(*spaces) | set(wide.get(step.name, step.axes))
            wide[step.name] = tuple(axis for axis in _order(cascade, resident, streamed, grid) if axis in shared)
    if all(cascade.axes(name) == axes for name, axes in wide.items()):
        return cascade
    narrow = _leading_to([name for name in cascade.outputs if name in wide], cascade)
    names = Names(cascade)
    copies = {step.name: names.fresh(step.name) for step in cascade.steps if step.name in narrow and step.name in wide}

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in wide:
            return None
        return build.read(copies.get(node.tensor, node.tensor), wide[node.tensor], node.kind)

    def widened(step: Einsum) -> Einsum:
        where = None if step.where is None else rewrite(step.where, rule)
        name, axes = copies.get(step.name, step.name), wide.get(step.name, step.axes)
        return replace(step, name=name, axes=axes, body=rewrite(step.body, rule), where=where)

    steps: list[Einsum] = []
    for step in cascade.steps:
        steps += [step] if step.name in narrow else []
        steps += [widened(step)] if step.name not in narrow or step.name in copies else []
    found = replace(cascade, steps=tuple(steps))
    return replace(found, steps=live_steps(found))


def _order(cascade: Cascade, resident: str, streamed: str, grid: tuple[str, ...]) -> tuple[str, ...]:
    """The axes of steps along both sequence axes, in the order of the widest step."""
    pairs = sorted((step.axes for step in cascade.steps if {resident, streamed} <= set(step.axes)), key=len, reverse=True)
    order = tuple(dict.fromkeys(axis for axes in (*pairs, grid) for axis in axes))
    return order if {*grid, resident} <= set[str]().union(*pairs) else tuple(dict.fromkeys((*grid, resident, *order)))


def _wide(cascade: Cascade, resident: str, streamed: str, grid: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The wider axes of reductions over keys, of their exponents and of their dependents, where they lack axes of the grid."""
    order = _order(cascade, resident, streamed, grid)
    statistics = [step for step in cascade.steps if step.reduce in ("max", "logsumexp") and streamed in step.over]
    exponents = {name for step in statistics for name in names_read(step.body)}
    found: dict[str, tuple[str, ...]] = {}
    for step in cascade.steps:
        finished = streamed in step.over or any(name in found for name in step_reads(step))
        if (finished or step.name in exponents) and not {*grid, resident} <= set(step.axes):
            axes = {*grid, resident, *step.axes}
            found[step.name] = (*(axis for axis in order if axis in axes), *(axis for axis in step.axes if axis not in order))
    return found


def _leading_to(names: list[str], cascade: Cascade) -> set[str]:
    """The named steps and all that they depend on."""
    found = set(names)
    for step in reversed(cascade.steps):
        found |= set(step_reads(step)) if step.name in found else set()
    return found


def _exponents_named(cascade: Cascade, rows: set[str], streamed: str) -> Cascade:
    """The bodies of max and logsumexp as steps of their own where they lack row axes: steps can be broadcast, inputs cannot."""
    names = Names(cascade)
    steps: list[Einsum] = []
    spelled: dict[Expr, Einsum] = {}
    for step in cascade.steps:
        there = {body: build.read(x.name, x.axes) for body, x in spelled.items() if mask_of(x.where) <= mask_of(step.where)}
        step = replace(step, body=rewrite(step.body, there.get))
        named = isinstance(step.body, Read) and cascade.step(step.body.tensor) is not None
        if step.reduce in ("max", "logsumexp") and step.over == (streamed,) and not named and not rows <= set(step.axes):
            axes = (*step.axes, streamed)
            spelled[step.body] = Einsum(names.fresh("x"), axes, step.body, where=step.where, loc=step.loc)
            steps.append(spelled[step.body])
            step = replace(step, body=build.read(steps[-1].name, axes))
        steps.append(step)
    return replace(cascade, steps=tuple(steps))

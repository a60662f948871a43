"""Traversal and rewriting of expressions. A rewrite rule returns None for "unchanged", so unchanged subtrees are shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Extent, Index, Offset, Read


def children(expr: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions; the positions of a read count."""
    match expr:
        case Apply(args=args):
            return args
        case Read(at=at):
            return at
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node, parents before children."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def rewrite(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Apply `rule` bottom-up; None leaves a node as it is."""
    match expr:
        case Apply(op=op, args=args):
            new = tuple(rewrite(arg, rule) for arg in args)
            node: Expr = expr if all(a is b for a, b in zip(new, args, strict=True)) else Apply(op, new)
        case Read(tensor=tensor, at=at, kind=kind):
            new = tuple(rewrite(arg, rule) for arg in at)
            node = expr if all(a is b for a, b in zip(new, at, strict=True)) else Read(tensor, new, kind)
        case _:
            node = expr
    changed = rule(node)
    return node if changed is None else changed


def reads(expr: Expr | None) -> tuple[Read, ...]:
    """All reads, each once, in order of appearance."""
    if expr is None:
        return ()
    return tuple(dict.fromkeys(node for node in walk(expr) if isinstance(node, Read)))


def names_read(expr: Expr | None) -> tuple[str, ...]:
    """Names of the tensors read, each once, in order of appearance."""
    return tuple(dict.fromkeys(read.tensor for read in reads(expr)))


def step_reads(step: Einsum) -> tuple[str, ...]:
    """Names a step depends on, through its body or its predicate."""
    return tuple(dict.fromkeys((*names_read(step.body), *names_read(step.where))))


def free_axes(expr: Expr | None) -> tuple[str, ...]:
    """Axes that the value varies along, in order of appearance."""
    if expr is None:
        return ()
    return tuple(dict.fromkeys(node.axis for node in walk(expr) if isinstance(node, Index | Offset)))


def extents(expr: Expr | None) -> tuple[str, ...]:
    """Axes whose extent is read."""
    if expr is None:
        return ()
    return tuple(dict.fromkeys(node.axis for node in walk(expr) if isinstance(node, Extent)))


def inline(expr: Expr, bodies: Mapping[str, Expr]) -> Expr:
    """Replace reads of named steps (at their own axes) by bodies, repeatedly."""

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in bodies:
            return inline(bodies[node.tensor], bodies)
        return None

    return rewrite(expr, rule)


def map_steps(cascade: Cascade, change: Callable[[Einsum], Einsum]) -> Cascade:
    """The cascade with every step mapped."""
    return replace(cascade, steps=tuple(change(step) for step in cascade.steps))


def live_steps(cascade: Cascade, outputs: tuple[str, ...] | None = None) -> tuple[Einsum, ...]:
    """The steps that the outputs need, in order."""
    by_name = {step.name: step for step in cascade.steps}
    needed: set[str] = set()
    pending = list(cascade.outputs if outputs is None else outputs)
    while pending:
        name = pending.pop()
        if name in needed or name not in by_name:
            continue
        needed.add(name)
        pending.extend(step_reads(by_name[name]))
    return tuple(step for step in cascade.steps if step.name in needed)

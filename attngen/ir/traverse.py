"""Walking and rewriting expressions. A rewriter returns None for "unchanged", so untouched parts are shared.

Each node is visited once however many parents it has, so that the work is linear in the DAG. Two nodes that are equal but not one object
are both visited; what is found must not depend on that, or ask for `occurrences`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from typing import TypeVar, cast

from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Extent, Index, Offset, Read

T = TypeVar("T")
LONG = 32
"""A value of more operations, each counted as often as the text has it, is not written where it is read: it gets a step of its own."""


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
    """Every node, in the order in which a reader of the text meets it first: parents before children, from left to right."""
    seen: set[int] = set()
    pending = [expr]
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            pending.extend(reversed(children(node)))


def occurrences(expr: Expr) -> Counter[Expr]:
    """How often the text of an expression has each of its nodes."""
    found: dict[Expr, None] = {}

    def visit(node: Expr) -> None:
        if node not in found:
            for child in children(node):
                visit(child)
            found[node] = None

    visit(expr)
    counts = Counter({expr: 1})
    for node in reversed(found):
        for child in children(node):
            counts[child] += counts[node]
    return counts


def once_a_node(rule: Callable[[Expr, Callable[[Expr], T]], T]) -> Callable[[Expr], T]:
    """A function that is defined by recursion, for as long as nothing else that it depends on changes.

    Args:
        rule: gives the result for a node, with the function itself to apply to other nodes.
    """
    done: dict[int, tuple[Expr, T]] = {}

    def visit(node: Expr) -> T:
        if id(node) not in done:
            done[id(node)] = node, rule(node, visit)  # the node is kept, so that no other one gets its id
        return done[id(node)][1]

    return visit


def rewrite(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Apply `rule` bottom-up, once a node; None leaves a node as it is."""

    def changed(old: Expr, visit: Callable[[Expr], Expr]) -> Expr:
        node = with_children(old, tuple(visit(child) for child in children(old)))
        new = rule(node)
        return node if new is None else new

    return once_a_node(changed)(expr)


def with_children(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """The node with other direct sub-expressions; itself where they are the ones that it has."""
    if all(a is b for a, b in zip(new, children(expr), strict=True)):
        return expr
    match expr:
        case Apply(op=op):
            return Apply(op, new)
        case Read(tensor=tensor, kind=kind):
            return Read(tensor, new, kind)
        case _:
            return expr


def _once(function: Callable[[Expr | None], tuple[T, ...]]) -> Callable[[Expr | None], tuple[T, ...]]:
    """The function, which keeps what it found with the node: passes ask the same of one body many times."""

    @wraps(function)
    def asked(expr: Expr | None) -> tuple[T, ...]:
        if not isinstance(expr, Apply):
            return function(expr)
        if function.__name__ not in expr.found:
            expr.found[function.__name__] = function(expr)
        return cast("tuple[T, ...]", expr.found[function.__name__])

    return asked


@_once
def reads(expr: Expr | None) -> tuple[Read, ...]:
    """All reads, each once, in order of appearance."""
    if expr is None:
        return ()
    return tuple(dict.fromkeys(node for node in walk(expr) if isinstance(node, Read)))


@_once
def names_read(expr: Expr | None) -> tuple[str, ...]:
    """Names of the tensors read, each once, in order of appearance."""
    return tuple(dict.fromkeys(read.tensor for read in reads(expr)))


def step_reads(step: Einsum) -> tuple[str, ...]:
    """Names a step depends on, through its body or its predicate."""
    return tuple(dict.fromkeys((*names_read(step.body), *names_read(step.where))))


@_once
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

    done: dict[str, Expr] = {}

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in bodies:
            return None
        if node.tensor not in done:
            done[node.tensor] = rewrite(bodies[node.tensor], rule)
        return done[node.tensor]

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

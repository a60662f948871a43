"""Guards: the predicate under which each value exists, by the interpreter's rule."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr
from attngen.ir.traverse import names_read

Mask = frozenset[Expr]
"""A conjunction as a set, for comparison; the empty one is true."""

Guards = Mapping[str, Expr | None]
"""The predicate of each value; None, or no entry, if it always exists."""


def mask_of(predicate: Expr | None) -> Mask:
    """The conjuncts of a predicate."""
    return frozenset(build.conjuncts(predicate))


def without(predicate: Expr | None, mask: Mask) -> Expr | None:
    """The conjuncts of a predicate that a mask lacks."""
    return build.both(*(part for part in build.conjuncts(predicate) if part not in mask))


def guards(cascade: Cascade) -> dict[str, Expr | None]:
    """The guard of every step; the result of a reduction always exists."""
    found: dict[str, Expr | None] = {}
    for step in cascade.steps:
        found[step.name] = None if step.reduce is not None else contributions(step, found)
    return found


def contributions(step: Einsum, exists: Guards) -> Expr | None:
    """The guard of the elements that a step computes, before any reduction."""
    return build.both(known(step.body, exists), known(step.where, exists), step.where)


def known(expr: Expr | None, exists: Guards) -> Expr | None:
    """The predicate under which all reads of an expression exist."""
    return build.both(*(exists.get(name) for name in names_read(expr)))

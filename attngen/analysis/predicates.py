"""Under which predicates each value exists, read off the text: the rule of the interpreter, without values."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr
from attngen.ir.traverse import names_read

Mask = frozenset[Expr]
"""A conjunction as a set, for comparisons; the empty one holds always."""

Guards = Mapping[str, Expr | None]
"""A predicate by name; None, and a name that is lacking, exist always."""


def mask_of(predicate: Expr | None) -> Mask:
    """The parts of a predicate."""
    return frozenset(build.conjuncts(predicate))


def without(predicate: Expr | None, mask: Mask) -> Expr | None:
    """The parts of a predicate that a mask lacks."""
    return build.both(*(part for part in build.conjuncts(predicate) if part not in mask))


def guards(cascade: Cascade) -> dict[str, Expr | None]:
    """The predicate of every step; a reduction ends masks."""
    found: dict[str, Expr | None] = {}
    for step in cascade.steps:
        found[step.name] = None if step.reduce is not None else contributions(step, found)
    return found


def contributions(step: Einsum, exists: Guards) -> Expr | None:
    """The predicate of what a step computes or, if it reduces, of what it reduces."""
    return build.both(known(step.body, exists), known(step.where, exists), step.where)


def known(expr: Expr | None, exists: Guards) -> Expr | None:
    """Where everything that an expression reads exists."""
    return build.both(*(exists.get(name) for name in names_read(expr)))

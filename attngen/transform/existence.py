"""Under which predicates each value exists, read off the text: the rule of the interpreter, without values."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr
from attngen.ir.traverse import names_read

Mask = frozenset[Expr]
"""A conjunction; the empty one holds always."""

ALWAYS: Mask = frozenset()


def mask_of(predicate: Expr | None) -> Mask:
    """The parts of a predicate."""
    return frozenset(build.conjuncts(predicate))


def predicate_of(mask: Mask, spelled: Expr | None) -> Expr | None:
    """A mask as an expression, its parts in the order in which `spelled` has them."""
    return build.both(*(part for part in build.conjuncts(spelled) if part in mask))


def existence(cascade: Cascade) -> dict[str, Mask]:
    """The mask of every step; a reduction ends masks."""
    found: dict[str, Mask] = {}
    for step in cascade.steps:
        found[step.name] = ALWAYS if step.reduce is not None else contributions(step, found)
    return found


def contributions(step: Einsum, exists: Mapping[str, Mask]) -> Mask:
    """The mask of what a step computes or, if it reduces, of what it reduces."""
    inherited = (exists.get(name, ALWAYS) for name in (*names_read(step.body), *names_read(step.where)))
    return mask_of(step.where).union(*inherited)

"""TracedForm to CanonicalForm: masks become predicates, equal steps are shared, dead steps go.

A mask written as `where(P, x, -inf)` says which contributions exist, so it moves to the step's predicate and spreads to whatever
reads the step. Nothing downstream ever computes with minus infinity.

Not done here: algebra across steps (that is `streaming`), and any rewriting of scores.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.errors import MaskMismatch
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.traverse import live_steps, reads, rewrite


def canonicalize(cascade: Cascade) -> Cascade:
    """Takes TracedForm, gives CanonicalForm with the same outputs."""
    cascade = replace(cascade, steps=tuple(_fold(step) for step in cascade.steps))
    cascade = replace(cascade, steps=tuple(_lift(step) for step in cascade.steps))
    cascade = share(cascade)
    cascade = _spread(cascade)
    return replace(cascade, steps=live_steps(cascade))


def _fold(step: Einsum) -> Einsum:
    """Rebuild the body through the folding constructors."""

    def rule(node: Expr) -> Expr | None:
        return build.apply(node.op, *node.args) if isinstance(node, Apply) else None

    where = None if step.where is None else build.both(rewrite(step.where, rule))
    return replace(step, body=rewrite(step.body, rule), where=where)


def _lift(step: Einsum) -> Einsum:
    body, predicate = lift_mask(step.body)
    return step if predicate is None else replace(step, body=body, where=build.both(step.where, predicate))


def lift_mask(expr: Expr) -> tuple[Expr, Expr | None]:
    """Split `where(P, a, -inf)`, also below additions and shifts, into the value and the predicate under which it exists."""
    match expr:
        case Apply(op="where", args=(predicate, value, other)) if build.is_const(other, float("-inf")):
            body, inner = lift_mask(value)
            return body, build.both(predicate, inner)
        case Apply(op="where", args=(predicate, other, value)) if build.is_const(other, float("-inf")):
            body, inner = lift_mask(value)
            return body, build.both(build.apply("not", predicate), inner)
        case Apply(op="add", args=(a, b)):
            left, first = lift_mask(a)
            right, second = lift_mask(b)
            return (expr, None) if first is None and second is None else (build.add(left, right), build.both(first, second))
        case Apply(op="sub", args=(a, b)):
            left, first = lift_mask(a)
            return (expr, None) if first is None else (build.sub(left, b), first)
        case _:
            return expr, None


def share(cascade: Cascade) -> Cascade:
    """One step for equal definitions; later reads go to the first."""
    alias: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    kept: list[Einsum] = []

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in alias:
            return Read(alias[node.tensor], node.at, node.kind)
        return None

    for step in cascade.steps:
        where = None if step.where is None else rewrite(step.where, rule)
        step = replace(step, body=rewrite(step.body, rule), where=where)
        key = (step.axes, step.body, step.reduce, step.over, step.where)
        if key in seen and step.name not in cascade.outputs:
            alias[step.name] = seen[key]
            continue
        seen.setdefault(key, step.name)
        kept.append(step)
    return replace(cascade, steps=tuple(kept))


def _spread(cascade: Cascade) -> Cascade:
    """A value computed from a missing one is missing: predicates travel along pointwise reads, and reductions end them."""
    exists: dict[str, Expr | None] = {}
    steps: list[Einsum] = []
    for step in cascade.steps:
        inherited = [exists[read.tensor] for read in reads(step.body) if exists.get(read.tensor) is not None]
        if not step.reduce:
            _check_sums(step, exists)
        where = build.both(*inherited, step.where)
        exists[step.name] = None if step.reduce else where
        steps.append(replace(step, where=where))
    return replace(cascade, steps=tuple(steps))


def _check_sums(step: Einsum, exists: dict[str, Expr | None]) -> None:
    """A sum of weights that exist under different masks means "0 where missing", which a predicate cannot say."""
    masks = {exists[read.tensor] for read in reads(step.body) if read.tensor in exists and len(read.at) == len(step.axes)}
    if len(masks) > 1 and isinstance(step.body, Apply) and step.body.op in ("add", "sub"):
        raise MaskMismatch(
            f"{step.name} adds values that exist under different masks",
            loc=step.loc,
            remedy="Give both the same mask, or reduce each with its own values first and add the results.",
        )

"""TracedForm to CanonicalForm: mask lifting, CSE and dead step elimination.

Masks, however spelled, are lifted to the predicates of their steps (`attngen.ir.masks`) and propagated to all readers, so later passes
never compute with minus infinity.

CanonicalForm: bodies are folded; every step is read at its own axes; every step carries the predicates of all it reads.

Not done here: algebra across steps (`streaming`) and rewriting of scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attngen.analysis.predicates import Guards, guards, known, mask_of
from attngen.errors import AxisError, MaskMismatch
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Const, Expr, Read
from attngen.ir.masks import lift_masks
from attngen.ir.names import spell
from attngen.ir.traverse import live_steps, names_read, reads, rewrite, walk

_ENDS_AT_ZERO = frozenset(("exp", "exp2", "sigmoid", "softplus", "relu", "gelu", "gelu_tanh"))


def canonicalize(cascade: Cascade) -> Cascade:
    """Takes TracedForm, gives CanonicalForm with the same outputs.

    Raises:
        AxisError: a step is read at another position than its own axes.
        MaskMismatch: values that exist under different masks are added.
    """
    cascade = replace(cascade, steps=tuple(_fold(step) for step in cascade.steps))
    _check_reads(cascade)
    cascade = lift_masks(cascade)
    cascade = share(cascade)
    _check_sums(cascade)
    cascade = _spread(cascade)
    return replace(cascade, steps=live_steps(cascade))


def _fold(step: Einsum) -> Einsum:
    """Constant folding, by rebuilding the body with the constructors of `build`."""

    def rule(node: Expr) -> Expr | None:
        return build.apply(node.op, *node.args) if isinstance(node, Apply) else None

    where = None if step.where is None else build.both(rewrite(step.where, rule))
    return replace(step, body=rewrite(step.body, rule), where=where)


def _check_reads(cascade: Cascade) -> None:
    """Refuse gathers from computed values: within a kernel these have no address."""
    own = {step.name: build.read(step.name, step.axes).at for step in cascade.steps}
    for step in cascade.steps:
        for read in (*reads(step.body), *reads(step.where)):
            if read.tensor in own and read.at != own[read.tensor]:
                raise AxisError(
                    f"{step.called} reads {spell(read, cascade.steps)}, a computed value that can only be read at its own axes",
                    loc=step.loc,
                    remedy="Pass the tensor as an input to read it at other positions, or recompute it along the other axes.",
                )


# ---- masks


def _spread(cascade: Cascade) -> Cascade:
    """Propagate predicates along pointwise reads, up to reductions: a value computed from a masked one is masked."""
    exists: dict[str, Expr | None] = {}
    steps: list[Einsum] = []
    for step in cascade.steps:
        inherited = [exists[read.tensor] for read in (*reads(step.body), *reads(step.where)) if exists.get(read.tensor) is not None]
        where = build.both(*inherited, step.where)
        exists[step.name] = None if step.reduce else where
        steps.append(replace(step, where=where))
    return replace(cascade, steps=tuple(steps))


def _check_sums(cascade: Cascade) -> None:
    """Refuse sums of weights under different masks.

    A masked score means minus infinity, which absorbs any addend. A masked weight means 0: if only one of two is masked, their sum is the
    other, which no predicate expresses.
    """
    exists = guards(cascade)
    scores = {name for step in cascade.steps if step.reduce in ("max", "logsumexp") for name in names_read(step.body)}
    weights: set[str] = set()
    for step in cascade.steps:
        for node in _pointwise(step.body):
            if node.op in ("add", "sub"):
                _check_sum(node, step, exists, weights, cascade.steps)
        own = step.where is not None and step.name not in scores and _root(step.body) in _ENDS_AT_ZERO
        if exists[step.name] is not None and (own or _is_weight(step.body, exists, weights)):
            weights.add(step.name)


def _check_sum(node: Apply, step: Einsum, exists: Guards, weights: set[str], steps: Sequence[Einsum]) -> None:
    first, second = (mask_of(known(arg, exists)) for arg in node.args)
    for arg, mask, other in ((node.args[0], first, second), (node.args[1], second, first)):
        if not mask <= other and _is_weight(arg, exists, weights):
            raise MaskMismatch(
                f"{step.called} adds values that exist under different masks: {spell(node, steps)}",
                loc=step.loc,
                remedy="Give both the same mask, or reduce each with its own values first and add the results.",
            )


def _is_weight(expr: Expr, exists: Guards, weights: set[str]) -> bool:
    """Whether a masked value of this expression means 0, not minus infinity."""
    if any(read.tensor in weights for read in reads(expr)):
        return True
    return any(node.op in _ENDS_AT_ZERO and known(node, exists) is not None for node in _pointwise(expr))


def _pointwise(expr: Expr) -> Iterator[Apply]:
    return (node for node in walk(expr) if isinstance(node, Apply))


def _root(expr: Expr) -> str:
    """The outermost operation, below constant scales."""
    match expr:
        case Apply(op="mul" | "div", args=(a, Const())) | Apply(op="mul", args=(Const(), a)):
            return _root(a)
        case Apply(op=op):
            return op
        case _:
            return ""


# ---- CSE


def share(cascade: Cascade) -> Cascade:
    """CSE of steps: later reads go to the first of several equal definitions."""
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

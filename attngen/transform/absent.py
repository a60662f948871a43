"""What is not there: keys that a mask takes from every row, rows that it leaves without keys. Their memory may hold anything.

    n < len[b] and m >= n       asks n < len[b] of a key by itself: behind it k and v may be NaN, and 0 * NaN is NaN
    lse[m] == -inf              a row that saw nothing: its gradients are 0, whatever cotangent comes in

A kernel reads 0 for such values (`cleared`), as it does behind the end of an axis. That costs full tiles nothing, for every position of a
full tile exists: what streams is cleared in tiles under masks, what stays once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from attngen.analysis.bounds import Linear, linear
from attngen.analysis.mask import solved
from attngen.analysis.spans import ZERO
from attngen.ir import build
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes, names_read, reads, step_reads
from attngen.transform.existence import contributions, existence, mask_of
from attngen.transform.kernel import Kernel
from attngen.transform.streaming import Streamed


def alone(predicate: Expr | None, axis: str, other: str, computed: Collection[str] = ()) -> Expr | None:
    """What a mask asks of a position along one axis by itself: where it fails, no pair with that position exists.

    Args:
        predicate: of pairs.
        axis: of the position. other: the axis of its partners.
        computed: names of steps, which are not known beforehand.
    """

    def weaker(expr: Expr, within: bool) -> Expr:
        """Without what depends on the partner: no narrower if `within`, else no wider."""
        match expr:
            case Apply(op="and" | "or" as op, args=(a, b)):
                return build.apply(op, weaker(a, within), weaker(b, within))
            case Apply(op="not", args=(a,)):
                return build.apply("not", weaker(a, not within))
            case _ if other in free_axes(expr) or set(computed) & set(names_read(expr)):
                return build.TRUE if within else build.FALSE
            case _:
                return expr

    if predicate is None:
        return None
    return build.both(*(part for part in build.conjuncts(weaker(predicate, True)) if axis in free_axes(part)))


def cleared(kernel: Kernel) -> dict[str, Expr]:
    """Inputs of floats that read as 0 where a predicate along one axis fails, for nothing in the kernel needs them there.

    Of what streams these are operands of sums over it alone: scores of keys that are not there are masked themselves.
    """
    found: dict[str, Expr] = {}
    for axis, other in partners(kernel):
        kept = alone(kernel.some, axis, other, [step.name for step in kernel.steps])
        if kept is not None and not (axis == kernel.resident and set(free_axes(kept)) & set(kernel.loops)):
            found |= {name: kept for name in (_resident(kernel) if axis == kernel.resident else _operands(kernel))}
    for name, alive in kernel.silent:
        if alive is not None and not _passes_by(kernel, name):
            found[name] = build.both(found.get(name), alive) or alive
    return found


def partners(kernel: Kernel) -> tuple[tuple[str, str], ...]:
    """Each of the two axes of its tiles, with the other."""
    if kernel.streamed is None or kernel.merges:
        return ()
    return (kernel.resident, kernel.streamed), (kernel.streamed, kernel.resident)


def _resident(kernel: Kernel) -> set[str]:
    inputs = {item.name for item in kernel.inputs}
    found = {read for step in kernel.steps for read in reads(step.body) if read.tensor in inputs and kind_of(read) == "float"}
    return {read.tensor for read in found if kernel.resident in free_axes(read) and kernel.streamed not in free_axes(read)}


def _operands(kernel: Kernel) -> set[str]:
    """Tiles of rows as they lie in memory that are multiplied by weights and summed."""
    inputs = {item.name for item in kernel.inputs}
    sums = [step for step in kernel.steps if kernel.streamed in step.over and set(step.axes) & set(kernel.features)]
    factors = [factor for step in sums for factor in signed_factors(step.body) if set(free_axes(factor)) & set(kernel.features)]
    return {factor.tensor for factor in factors if isinstance(factor, Read) and factor.tensor in inputs}


def _passes_by(kernel: Kernel, name: str) -> bool:
    """Whether an input reaches a result of its own row past all sums over what streams."""
    reached = {name}
    for step in kernel.steps:
        if kernel.streamed not in (*step.axes, *step.over) and reached & set(step_reads(step)):
            reached.add(step.name)
    return bool(reached & set(kernel.outputs))


# ---- rows without keys


def silent_rows(forward: Streamed, saved: Collection[str]) -> tuple[bool, Expr | None]:
    """Whether masks may leave rows without keys, and a predicate of saved statistics that holds in the others; None if none tells."""
    cascade, keys = forward.cascade, forward.streamed
    exists = existence(cascade)
    masks = [contributions(step, exists) for step in cascade.steps if keys in step.over]
    if not masks or any(mask is None or sees_a_key(mask, keys) for mask in masks):
        return False, None
    alive: dict[Expr, None] = {}
    for mask in masks:
        told = [gauge for gauge in forward.gauges if not gauge.floor and gauge.value in saved and _implies(mask, exists.get(gauge.weight))]
        if not told:
            return True, None
        alive[build.apply("ne", build.read(told[0].value, cascade.axes(told[0].value)), build.NEG_INF)] = None
    first, *more = alive
    for other in more:
        first = build.apply("or", first, other)
    return True, first


def _implies(mask: Expr | None, other: Expr | None) -> bool:
    return mask_of(other) <= mask_of(mask)


def sees_a_key(mask: Expr, keys: str) -> bool:
    """Whether every row is known to have a key: the first one, as under a causal mask."""
    span, left = solved(mask, keys)
    return not left and span.lo == ZERO and _positive(span.hi)


def _positive(bound: Expr) -> bool:
    """Whether a bound is known to be 1 or more: lengths are, positions are 0 or more."""
    match bound:
        case Apply(op="max", args=args):
            return any(map(_positive, args))
        case Apply(op="min", args=args) | Apply(op="where", args=(_, *args)):
            return all(map(_positive, args))
        case _:
            return _least(linear(bound)) >= 1


def _least(form: Linear) -> int:
    """The least value of a form, 0 if nothing is known."""
    if not all(factor > 0 and isinstance(term, Index | Extent) for term, factor in form.terms):
        return 0
    return form.constant + sum(factor for term, factor in form.terms if isinstance(term, Extent))


def silenced(kernel: Kernel, rows: str, alive: Expr | None, cascade: Cascade, cotangents: Iterable[str]) -> Kernel:
    """A kernel of a backward that knows which of its inputs count in rows with keys only.

    Args:
        kernel: streams, or has rows stream.
        rows: axis of rows. alive: which of them have keys, by saved statistics; None if nothing tells.
        cascade: of the gradients. cotangents: of the outputs.
    """
    derived = set(cotangents)
    for step in cascade.steps:
        derived |= {step.name} if derived & set(step_reads(step)) else set()
    names = [item.name for item in kernel.inputs if item.name in derived and rows in (item.axes or ())]
    if not names:
        return kernel
    known = {item.name for item in kernel.inputs}
    found = None if alive is None else _as_stored(alive, cascade, known)
    more = tuple(Input(read.tensor, cascade.axes(read.tensor), len(read.at)) for read in reads(found) if read.tensor not in known)
    return replace(kernel, inputs=(*kernel.inputs, *more), silent=tuple((name, found) for name in names))


def _as_stored(alive: Expr, cascade: Cascade, known: Collection[str]) -> Expr:
    """The predicate by what a kernel has anyway: the statistic with infinity for minus infinity, as weights are measured from it."""
    match alive:
        case Apply(op="or", args=(a, b)):
            return build.apply("or", _as_stored(a, cascade, known), _as_stored(b, cascade, known))
        case Apply(op="ne", args=(Read() as statistic, _)):
            safe = build.apply("where", build.apply("eq", statistic, build.NEG_INF), build.INF, statistic)
            same: list[Einsum] = [step for step in cascade.steps if step.body == safe and step.name in known]
            return build.apply("ne", build.read(same[0].name, same[0].axes), build.INF) if same else alive
        case _:
            return alive


__all__ = ["alone", "cleared", "partners", "sees_a_key", "silenced", "silent_rows"]

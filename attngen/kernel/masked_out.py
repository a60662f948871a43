"""Fully masked positions: keys that no row attends to, and `silent` rows without keys. Their memory may hold anything, NaN included.

    n < len[b] and m >= n       requires n < len[b] of the key alone: beyond it k and v may be NaN, and 0 * NaN is NaN
    lse[m] == -inf              a fully masked row: its gradients are 0, whatever its cotangent

A kernel reads 0 for such values (`cleared`), as it does beyond the end of an axis. FULL tiles have none and cost nothing: streamed tiles
are cleared in masked iterations, the resident tile once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial, reduce

from attngen.analysis.affine import Linear, linear
from attngen.analysis.intervals import ZERO
from attngen.analysis.kv_ranges import solved
from attngen.analysis.predicates import contributions, guards, mask_of
from attngen.ir import build
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes, names_read, occurrences, reads, rewrite, step_reads
from attngen.kernel.kernel import Kernel
from attngen.transform.streaming.streaming import Streamed


def project_mask(predicate: Expr | None, axis: str, other: str, computed: Collection[str] = ()) -> Expr | None:
    """Project a mask onto one axis: where the result fails, all pairs with that position are masked.

    Args:
        predicate: the mask of pairs.
        axis: the axis to project onto.
        other: the axis to eliminate.
        computed: names of steps, whose values are unknown.
    """

    def weaker(expr: Expr, within: bool) -> Expr:
        """Without dependence on the other axis: implied by `expr` if `within`, else implying it."""
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
    """Float inputs that read as 0 where a predicate along one axis fails.

    Of the streamed inputs, only operands of sums over the loop axis: the scores of masked keys are masked themselves.
    """
    found: dict[str, Expr] = {}
    for axis, _ in partners(kernel):
        projection = projected_mask(kernel, axis)
        if projection is not None:
            found |= {name: projection for name in (_resident(kernel) if axis == kernel.resident else _operands(kernel, projection))}
    return found


def projected_mask(kernel: Kernel, axis: str) -> Expr | None:
    """The projection of a kernel's may-mask onto an axis; None also if that of the resident axis varies along `loops`."""
    projection = project_mask(kernel.may_mask, axis, dict(partners(kernel))[axis], [step.name for step in kernel.steps])
    return None if axis == kernel.resident and set(free_axes(projection)) & set(kernel.loops) else projection


def row_count(kernel: Kernel, projection: Expr) -> Expr | None:
    """The number of streamed rows, one scalar for a program, if the projected mask is only an upper bound; else None. A descriptor of so
    many rows covers the rest."""
    interval, left = solved(projection, kernel.streamed or "")
    changes = {kernel.resident, kernel.streamed, *kernel.loops} & set(free_axes(interval.hi))
    return interval.hi if not left and interval.lo == ZERO and not changes and kernel.streamed in free_axes(projection) else None


def has_few_rows(kernel: Kernel, exists: Expr | None) -> bool:
    """Whether a kernel has few query rows (split-KV or packed GQA), with short enough tiles to test for keys that none of the rows
    attends to: those beyond the end of a KV cache then read as 0 whatever the mask says of rows."""
    if exists is None or kernel.resident not in free_axes(exists):
        return False
    numbers = {item.name for item in kernel.inputs if item.by_value}
    found = occurrences(exists)

    def divided(axis: str) -> int:
        parts = [(node.args, count) for node, count in found.items() if isinstance(node, Apply) and node.op in ("floordiv", "mod")]
        return sum(count for (a, b), count in parts if a == Index(axis) and isinstance(b, Read) and b.tensor in numbers)

    rows = found[Index(kernel.resident)]
    packed = kernel.role == "forward" and rows == divided(kernel.resident) and not divided(kernel.streamed or "")
    return kernel.role == "forward_parts" or packed


def quieted(kernel: Kernel) -> dict[str, Expr]:
    """Inputs that read as 0 in fully masked rows, each with the predicate of the other rows."""
    return {name: alive for name, alive in kernel.silent if alive is not None and not _bypasses_sums(kernel, name)}


def partners(kernel: Kernel) -> tuple[tuple[str, str], ...]:
    """The resident and the streamed axis, each with the other one; () without a pair."""
    if kernel.streamed is None or kernel.combines_splits:
        return ()
    return (kernel.resident, kernel.streamed), (kernel.streamed, kernel.resident)


def _resident(kernel: Kernel) -> set[str]:
    inputs = {item.name for item in kernel.inputs}
    found = {read for step in kernel.steps for read in reads(step.body) if read.tensor in inputs and kind_of(read) == "float"}
    names = {read.tensor for read in found if kernel.resident in free_axes(read) and kernel.streamed not in free_axes(read)}
    # With keys resident, an input that bypasses the sums only adds to that key's gradient, which is 0.
    return names if keys_resident(kernel) else {name for name in names if not _bypasses_sums(kernel, name)}


def keys_resident(kernel: Kernel) -> bool:
    """Whether keys are resident: such a kernel stores only sums over rows and values derived from them."""
    return kernel.role.startswith(("backward_columns", "backward_fused"))


def _operands(kernel: Kernel, projection: Expr) -> set[str]:
    """Streamed row tiles that are operands of sums over the loop axis; in a backward those of all dots, if a row count clears them."""
    inputs = {item.name for item in kernel.inputs}
    free = row_count(kernel, projection) is not None and kernel.role.startswith("backward")
    products = [step for step in kernel.steps if kernel.streamed in step.over or (free and step.reduce is not None)]
    factors = [factor for step in products for factor in signed_factors(step.body)]
    rows = [factor for factor in factors if isinstance(factor, Read) and factor.tensor in inputs and kernel.streamed in free_axes(factor)]
    return {factor.tensor for factor in rows if set(free_axes(factor)) & set(kernel.features)}


def _bypasses_sums(kernel: Kernel, name: str) -> bool:
    """Whether an output depends on an input other than through streamed tiles and their sums."""
    reached = {name}
    for step in kernel.steps:
        if kernel.streamed not in (*step.axes, *step.over) and reached & set(step_reads(step)):
            reached.add(step.name)
    return bool(reached & set(kernel.outputs))


# ---- fully masked rows


@dataclass(frozen=True, slots=True)
class Silence:
    """Facts about rows that may be fully masked.

    Attributes:
        alive: a predicate of saved statistics that holds in the other rows; None if no statistic tells.
        seeing: comparisons under which there are none, see `Kernel`.
    """

    alive: Expr | None
    seeing: tuple[Expr, ...]


def silent_rows(forward: Streamed, inputs: Iterable[Input], saved: Collection[str]) -> Silence | None:
    """Facts about rows that may be fully masked; None if no row can be.

    Args:
        forward: holds the masks.
        inputs: those of its cascade, captured numbers among them.
        saved: names of the statistics that the backward reads.
    """
    cascade, keys = forward.cascade, forward.streamed
    exists = guards(cascade)
    masks = [contributions(step, exists) for step in cascade.steps if keys in step.over]
    if not masks or any(mask is None or has_key(mask, keys, forward.resident) for mask in masks):
        return None
    numbers = {item.name for item in inputs if item.by_value}
    own = [_attends_itself(mask, (forward.resident, keys), numbers) for mask in masks if mask is not None]
    seeing = next((parts for parts in own if parts is not None), None)
    if seeing is not None:
        seeing = (build.apply("le", Extent(forward.resident), Extent(keys)), *seeing)
    predicates: dict[Expr, None] = {}
    for mask in masks:
        values = [gauge.value for gauge in forward.gauges if not gauge.floor and mask_of(exists.get(gauge.weight)) <= mask_of(mask)]
        value = next((value for value in values if value in saved), None)
        if value is None:
            return Silence(None, seeing or ())
        predicates[build.apply("ne", build.read(value, cascade.axes(value)), build.NEG_INF)] = None
    return Silence(reduce(partial(build.apply, "or"), predicates), seeing or ())


def has_key(mask: Expr, keys: str, rows: str) -> bool:
    """Whether every row is known to have a key unless none has: the first key, as under a causal mask, or the same keys for all rows."""
    interval, left = solved(mask, keys)
    first = not left and interval.lo == ZERO and all(rows not in free_axes(part) or _positive(part) for part in _least_of(interval.hi))
    return first or rows not in free_axes(mask)


def _least_of(bound: Expr) -> tuple[Expr, ...]:
    return tuple(part for arg in bound.args for part in _least_of(arg)) if isinstance(bound, Apply) and bound.op == "min" else (bound,)


def _attends_itself(mask: Expr, pair: tuple[str, str], numbers: Collection[str]) -> tuple[Expr, ...] | None:
    """Comparisons of extents and numbers under which a row attends to the key at its own position; None if there are none."""
    rows, keys = pair
    found: dict[Expr, None] = {}
    for part in build.conjuncts(rewrite(mask, lambda node: _on_diagonal(node, rows, keys))):
        if part == build.TRUE:
            continue
        if not isinstance(part, Apply) or part.op not in ("lt", "le", "gt", "ge", "eq"):
            return None
        left, right = map(linear, part.args)
        form = left.plus(right, -1)
        if not form.terms:
            if build.apply(part.op, build.const(form.constant), build.const(0)) != build.TRUE:
                return None
        elif all(isinstance(term, Extent) or (isinstance(term, Read) and not term.at and term.tensor in numbers) for term, _ in form.terms):
            found[_compared(part.op, form)] = None
        else:
            return None
    return tuple(found)


def _compared(op: str, form: Linear) -> Expr:
    """A form compared with 0, without negative terms."""
    more = Linear(tuple(item for item in form.terms if item[1] > 0), max(form.constant, 0))
    less = Linear(tuple((term, -factor) for term, factor in form.terms if factor < 0), max(-form.constant, 0))
    return build.apply(op, more.expr(), less.expr())


def _on_diagonal(node: Expr, rows: str, keys: str) -> Expr | None:
    """An expression with the row's position substituted for the key's, folded."""
    match node:
        case Index(axis=axis) if axis == keys:
            return Index(rows)
        case Apply(op=op, args=args) if op in ("eq", "le", "ge") and args[0] == args[1] and kind_of(args[0]) != "float":
            return build.TRUE
        case Apply(op=op, args=args):
            return build.apply(op, *args)
        case _:
            return None


def _positive(bound: Expr) -> bool:
    """Whether a bound is known to be at least 1, as extents are; positions are at least 0."""
    match bound:
        case Apply(op="max", args=args):
            return any(map(_positive, args))
        case Apply(op="min", args=args) | Apply(op="where", args=(_, *args)):
            return all(map(_positive, args))
        case _:
            return _least(linear(bound)) >= 1


def _least(form: Linear) -> int:
    """The minimum of a form, 0 if unknown."""
    if not all(factor > 0 and isinstance(term, Index | Extent) for term, factor in form.terms):
        return 0
    return form.constant + sum(factor for term, factor in form.terms if isinstance(term, Extent))


def silenced(kernel: Kernel, rows: str, silence: Silence, cascade: Cascade, cotangents: Iterable[str]) -> Kernel:
    """A backward kernel with `silent` and `seeing` set: inputs derived from cotangents read as 0 in fully masked rows.

    Args:
        kernel: a kernel over rows.
        rows: the row axis.
        silence: facts of the forward.
        cascade: that of the gradients.
        cotangents: those of the outputs.
    """
    derived = set(cotangents)
    for step in cascade.steps:
        derived |= {step.name} if derived & set(step_reads(step)) else set()
    names = [item.name for item in kernel.inputs if item.name in derived and rows in (item.axes or ())]
    if not names:
        return kernel
    known = {item.name for item in kernel.inputs}
    alive = None if silence.alive is None else _as_stored(silence.alive, cascade, known)
    more = tuple(Input(read.tensor, cascade.axes(read.tensor), len(read.at)) for read in reads(alive) if read.tensor not in known)
    silent = tuple((name, alive) for name in names)
    return replace(kernel, inputs=(*kernel.inputs, *more), silent=silent, seeing=silence.seeing)


def _as_stored(alive: Expr, cascade: Cascade, known: Collection[str]) -> Expr:
    """The predicate in terms of an input that the kernel has anyway: the statistic with +inf for -inf, which weights subtract."""
    match alive:
        case Apply(op="or", args=(a, b)):
            return build.apply("or", _as_stored(a, cascade, known), _as_stored(b, cascade, known))
        case Apply(op="ne", args=(Read() as statistic, _)):
            safe = build.apply("where", build.apply("eq", statistic, build.NEG_INF), build.INF, statistic)
            same: list[Einsum] = [step for step in cascade.steps if step.body == safe and step.name in known]
            return build.apply("ne", build.read(same[0].name, same[0].axes), build.INF) if same else alive
        case _:
            return alive

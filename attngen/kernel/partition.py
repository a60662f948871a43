"""Partition of the steps into kernels, each with a resident tile of one axis and a loop over tiles of another.

    forward             rows resident, keys streamed
    backward_prepare    row values of the backward that need a feature sum (delta); rowwise, no loop
    backward_statistics row values of the backward that need a sweep over the keys and that tiles read
    backward_rows       gradients along the row axis: dQ
    backward_columns    gradients along the key axis: dK and dV, with the roles of the axes swapped
    backward_pairs      gradients of pairs that are summed over grid axes, or scattered to shared elements (`scatters`)

Gradients along neither axis are one partial per row, summed by the host. A kernel of pairs sums each tile over `loops` within an iteration;
the others run the whole loop once for each position of `loops`.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.analysis.predicates import Guards, contributions, guards, mask_of
from attngen.errors import UnsupportedError
from attngen.ir import build
from attngen.ir.algebra import signed_terms
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, step_reads
from attngen.kernel.kernel import BiasDot, DocumentExtents, Kernel
from attngen.kernel.liveness import live
from attngen.kernel.masked_out import silenced, silent_rows
from attngen.kernel.rewrites.loop_invariants import hoist_row_values
from attngen.kernel.scatter import Scatter, by_step, scatters, with_columns
from attngen.transform.autodiff.differentiate import Backward
from attngen.transform.streaming.streaming import Streamed

__all__ = [
    "BiasDot",
    "DocumentExtents",
    "Kernel",
    "addends",
    "backward_kernels",
    "dots_to_zero",
    "forward_kernel",
    "readers_of",
    "with_tile_masks",
]


def forward_kernel(streamed: Streamed, saved: tuple[str, ...], features: tuple[str, ...]) -> Kernel:
    """The forward kernel: all outputs and the saved state."""
    cascade = streamed.cascade
    outputs = tuple(dict.fromkeys((*cascade.outputs, *saved)))
    axes = dict.fromkeys(axis for name in outputs for axis in cascade.axes(name))
    grid = tuple(axis for axis in axes if axis != streamed.resident and axis not in features)
    for name in outputs:
        if streamed.resident not in cascade.axes(name):
            raise UnsupportedError(
                f"the output {name}[{','.join(cascade.axes(name))}] does not vary along {streamed.resident}, the parallel axis",
                remedy="Every output must have the query axis; reduce it outside.",
            )
    gauges = {gauge.name for gauge in streamed.gauges}
    known = tuple(item for item in cascade.inputs if item.name not in gauges)
    kernel = Kernel("forward", streamed.resident, streamed.streamed, grid, (), features, known, cascade.steps, outputs)
    kernel = replace(kernel, gauges=streamed.gauges, accumulators=streamed.accumulators)
    return with_tile_masks(live(kernel))


def backward_kernels(backward: Backward, cascade: Cascade, features: tuple[str, ...]) -> tuple[Kernel, ...]:
    """The kernels of the split backward that the requested gradients need.

    Args:
        backward: the result of `differentiate`.
        cascade: its gradient cascade, after `factor`.
        features: the feature axes.
    """
    rows, keys = backward.forward.resident, backward.forward.streamed
    split = _Split(cascade, rows, keys, features, scatters(backward.gradients, cascade, (rows, keys)))
    stored_rows = {cascade.axes(name) for name in split.prepared}
    if len(stored_rows) == 1 and split.columns:
        # The preprocess kernel exists anyway: hoist row values into it.
        cascade, more = hoist_row_values(cascade, {item.name for item in backward.saved}, *stored_rows)
        split = _Split(cascade, rows, keys, features, split.scatters, more)
    kernels: list[Kernel] = []
    if split.prepared:
        kernels.append(split.kernel("backward_prepare", rows, None, split.prepared, cascade.inputs))
    silence = silent_rows(backward.forward, cascade.inputs, {item.name for item in backward.saved})
    cotangents = [name for _, name in backward.cotangents]

    def streaming_kernel(role: str, axes: tuple[str, str], outputs: tuple[str, ...]) -> Kernel:
        kernel = split.kernel(role, *axes, outputs, known)
        return with_tile_masks(kernel if silence is None else silenced(kernel, rows, silence, cascade, cotangents))

    known = _with_stored(cascade, cascade.inputs, split.prepared)
    for number, statistics in enumerate(split.statistics):
        role = "backward_statistics" if number == 0 else f"backward_statistics_{number + 1}"
        kernels.append(streaming_kernel(role, (rows, keys), statistics))
        known = _with_stored(cascade, known, statistics)
    for role, resident, streamed, outputs in (
        ("backward_rows", rows, keys, split.rows),
        ("backward_columns", keys, rows, split.columns),
        ("backward_pairs", rows, keys, split.pairs),
    ):
        groups = split.groups(outputs, known)
        for number, group in enumerate(groups):
            name = role if number == 0 else f"{role}_{number + 1}"
            kernels.append(streaming_kernel(name, (resident, streamed), group))
    return tuple(kernels)


def _with_stored(cascade: Cascade, known: tuple[Input, ...], stored: tuple[str, ...]) -> tuple[Input, ...]:
    """The inputs of later kernels, with the outputs of an earlier one."""
    mine = tuple(Input(name, cascade.axes(name), len(cascade.axes(name))) for name in stored)
    return (*(item for item in known if item.name not in stored), *mine)


class _Split:
    def __init__(
        self,
        cascade: Cascade,
        rows: str,
        keys: str,
        features: tuple[str, ...],
        places: dict[str, Scatter],
        values: tuple[str, ...] = (),
    ) -> None:
        self.cascade = cascade
        self.scatters = places
        self.features = features
        self.sequence = {rows, keys}
        by_name = {step.name: step for step in cascade.steps}
        touches_keys: set[str] = set()
        needs_features: set[str] = set()
        for step in cascade.steps:
            names = step_reads(step)
            if keys in (*step.axes, *step.over) or any(name in touches_keys for name in names):
                touches_keys.add(step.name)
            elif set(step.over) & set(features) or any(name in needs_features for name in names):
                needs_features.add(step.name)
        read_by_tiles = {name for step in cascade.steps if step.name in touches_keys for name in step_reads(step)}
        steps = [name for name in cascade.outputs if name in by_name]
        # A direct scatter over the whole grid is stored by the row kernel itself.
        grid = {axis for step in cascade.steps if self.sequence <= set(step.axes) for axis in step.axes} - self.sequence
        whole = {name for name, item in places.items() if item.form == "stored" and grid <= set(by_name[name].axes)}
        self.pairs = tuple(name for name in steps if name in places and name not in whole)
        self.rows = tuple(name for name in steps if name in touches_keys and rows in by_name[name].axes and name not in self.pairs)
        self.columns = tuple(name for name in steps if name in touches_keys and rows not in by_name[name].axes)
        row_outputs = [name for name in steps if name not in touches_keys]
        needed = [name for name in by_name if name in needs_features and name in read_by_tiles]
        self.prepared = tuple(dict.fromkeys((*needed, *row_outputs, *values)))
        self.statistics = self.by_sweep(keys)

    def by_sweep(self, keys: str) -> tuple[tuple[str, ...], ...]:
        """Row values that tiles read and that depend on sums over the keys, grouped by the number of sweeps before them."""
        sweeps: dict[str, int] = {}
        found: dict[int, dict[str, None]] = {}
        values = {step.name for step in self.cascade.steps if keys not in step.axes}
        for step in self.cascade.steps:
            before = max((sweeps.get(name, 0) for name in step_reads(step)), default=0)
            sweeps[step.name] = before + (keys in step.over)
            if keys in (*step.axes, *step.over):
                for name in step_reads(step):
                    if name in values and sweeps.get(name, 0) > 0:
                        found.setdefault(sweeps[name], {})[name] = None
        return tuple(tuple(found[count]) for count in sorted(found))

    def groups(self, outputs: tuple[str, ...], known: tuple[Input, ...]) -> list[tuple[str, ...]]:
        """Outputs that can share a kernel: those with the same grid axes and sums over the same grid axes."""
        inner = {*self.sequence, *self.features}
        given = {item.name for item in known}
        by_name = {step.name: step for step in self.cascade.steps}
        found: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
        for name in outputs:
            pending, needed = [name], dict[str, Einsum]()
            while pending:
                step = by_name.get(pending.pop())
                if step is not None and step.name not in needed and (step.name not in given or step.name == name):
                    needed[step.name] = step
                    pending += step_reads(step)
            summed = frozenset(axis for step in needed.values() for axis in step.over) - inner
            found.setdefault((frozenset(self.cascade.axes(name)) - inner, summed), []).append(name)
        return [tuple(group) for group in found.values()]

    def kernel(self, role: str, resident: str, streamed: str | None, outputs: tuple[str, ...], known: tuple[Input, ...]) -> Kernel:
        axes = dict.fromkeys(axis for name in outputs for axis in self.cascade.axes(name))
        grid = tuple(axis for axis in axes if axis not in self.sequence and axis not in self.features)
        kernel = Kernel(role, resident, streamed, grid, (), self.features, known, self.cascade.steps, outputs)
        kernel = live(replace(kernel, scatters=by_step(self.scatters, outputs)))
        if set(outputs) <= set(self.pairs):
            kernel = replace(kernel, steps=self.products_apart(kernel.steps))
        over = dict.fromkeys(axis for step in kernel.steps for axis in step.over)
        loops = tuple(axis for axis in over if axis not in self.sequence and axis not in self.features)
        after: set[str] = set()
        for step in kernel.steps:
            if streamed in step.over and not set(loops) <= set(step.over) and not set(outputs) <= set(self.pairs):
                # Each iteration over `loops` would add it again.
                raise UnsupportedError(
                    f"a sum over {streamed} is added to one over {', '.join(loops)} too, whose loop would add it several times",
                    loc=step.loc,
                    remedy=f"Give all values the axes {', '.join(loops)}: expand the argument over them before the call.",
                )
            dependent, summed = bool(after & set(step_reads(step))), bool(set(step.over) & set(loops)) and streamed not in step.over
            after |= {step.name} if dependent or summed else set()
            if summed and (dependent or not self.is_total(step, loops, outputs)):
                over = ", ".join(axis for axis in step.over if axis in loops)
                raise UnsupportedError(
                    f"a value of its backward is summed over {over} only after a sum over a sequence or features is done",
                    loc=step.loc,
                    remedy=f"Give what it belongs to the axis {over}: expand the argument over it before the call.",
                )
        return replace(kernel, loops=loops)

    def products_apart(self, steps: tuple[Einsum, ...]) -> tuple[Einsum, ...]:
        """Split tiles that are sums over features and grid axes: a dot, and a sum of its tiles."""
        names = Names(self.cascade)
        found: list[Einsum] = []
        for step in steps:
            inner = tuple(axis for axis in step.over if axis in self.features)
            outer = tuple(axis for axis in step.over if axis not in inner)
            if inner and outer and self.sequence <= set(step.axes):
                part = replace(step, name=names.fresh(f"{step.name}_part"), axes=(*outer, *step.axes), over=inner)
                step = replace(step, body=build.read(part.name, part.axes), over=outer)
                found.append(part)
            found.append(step)
        return tuple(found)

    def is_total(self, step: Einsum, loops: tuple[str, ...], outputs: tuple[str, ...]) -> bool:
        """Whether a kernel of pairs can sum a tile over all of `loops`."""
        return set(outputs) <= set(self.pairs) and self.sequence <= set(step.axes) and set(step.over) == set(loops)


def with_tile_masks(kernel: Kernel) -> Kernel:
    """Where tiles hold anything, and where they need no masks: the union and the intersection of what is accumulated or stored."""
    exists = contributing(kernel)
    masks: dict[Expr | None, None] = {}
    for step in kernel.steps:
        summed = bool(set(step.over) & set(kernel.loops))
        if kernel.streamed in step.over or (kernel.streamed in step.axes and (step.name in kernel.outputs or summed)):
            masks[exists[step.name]] = None
    may_mask: Expr | None = None if None in masks or not masks else next(iter(masks))
    for mask in list(masks)[1:]:
        may_mask = None if may_mask is None or mask is None else build.apply("or", may_mask, mask)
    must_mask = build.both(*masks, *dots_to_zero(kernel, exists).values())
    if kernel.sums_tiles:
        # A tile is visited once for all of `loops`: conjuncts along these are no bounds.
        may_mask = build.both(*(part for part in build.conjuncts(may_mask) if not set(free_axes(part)) & set(kernel.loops)))
        must_mask = build.FALSE if set(free_axes(must_mask)) & set(kernel.loops) else must_mask
    masked = (*free_axes(may_mask), *free_axes(must_mask))
    targets = tuple(with_columns(item, kernel.grid, masked) for item in kernel.scatters)
    return replace(kernel, may_mask=may_mask, must_mask=must_mask, scatters=targets)


def contributing(kernel: Kernel) -> dict[str, Expr | None]:
    """For each step the predicate of what it computes or, if it reduces, of what it reduces; None exists always."""
    exists = guards(kernel.cascade)
    return {step.name: contributions(step, exists) for step in kernel.steps}


def dots_to_zero(kernel: Kernel, masks: Guards) -> dict[str, Expr]:
    """Tile sums over features under a mask that some reader does not share: there they must be 0 where the mask fails.

    Elsewhere nobody reads them, so nothing has to be done.

    Args:
        kernel: whose steps are in order.
        masks: of each step, as `contributing` finds them.
    """
    pair = {kernel.resident, kernel.streamed}
    found: dict[str, Expr] = {}
    for step in kernel.steps:
        mask = masks[step.name]
        if mask is None or step.reduce is None or not pair <= set(step.axes):
            continue
        readers = readers_of(step, kernel)
        shared = all(mask_of(mask) <= mask_of(masks[other.name]) for other in readers)
        if not shared or step.name in kernel.outputs:
            found[step.name] = mask
    return found


def readers_of(step: Einsum, kernel: Kernel) -> list[Einsum]:
    """The readers of a sum, through steps that only add it to others."""
    direct = [other for other in kernel.steps if step.name in step_reads(other)]
    passed_on = [other for other in direct if addends(other) and other.name not in kernel.outputs]
    return [*(other for other in direct if other not in passed_on), *(last for other in passed_on for last in readers_of(other, kernel))]


def addends(step: Einsum) -> tuple[str, ...]:
    """The tensors that a step adds, each read at the axes of the step; () if it does anything else."""
    terms = [term for _, term in signed_terms(step.body)]
    plain = all(isinstance(term, Read) and term.at == tuple(Index(axis) for axis in step.axes) for term in terms)
    added = step.reduce is None and step.where is None and len(terms) > 1 and all(sign > 0 for sign, _ in signed_terms(step.body))
    return tuple(term.tensor for term in terms if isinstance(term, Read)) if plain and added else ()

"""StreamingForm to GradientForm: reverse mode over the separated cascade, with the gauges held constant.

After separation the outputs are row-wise functions of sums, each linear in its terms, so every adjoint needs row and feature sums only.
Values do not depend on a gauge: it is an input without a derivative. Evaluated at the final row value Z (where `w = exp(x - Z)` and
`norm = 1`, see `saved_state`), softmax attention yields the usual -delta, dP and dS:

    dl_i[m] = sum[e] -do[m,e] * acc[m,e]         (acc = o at Z)
    dw[m,n] = sum[e] do[m,e] * v[n,e] + dl_i[m]
    dx[m,n] = dw[m,n] * w[m,n]

The saved state is the Z of each gauge, and the sums that no output determines.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from attngen.analysis.predicates import contributions, guards, known, mask_of, without
from attngen.errors import NotDifferentiable
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input, arguments_first
from attngen.ir.expr import Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, names_read, step_reads
from attngen.source import SourceLoc
from attngen.transform.autodiff.precise_delta import exchange_sums
from attngen.transform.autodiff.rules import gradients
from attngen.transform.autodiff.saved_state import Saved, evaluate_at_end
from attngen.transform.streaming.gauges import at_own_axes
from attngen.transform.streaming.streaming import Streamed

__all__ = ["Backward", "Gradient", "Saved", "differentiate"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """How the host completes a gradient: sum `step` over the axes that the target lacks; for a gathered target, scatter-add at positions
    `at`. Several gradients of one target add up."""

    target: str
    step: str
    at: tuple[Expr, ...] | None = None


@dataclass(frozen=True, slots=True)
class Backward:
    """The forward with its saved steps, and the gradient cascade that reads them.

    `cotangents` pairs each output with the input that carries its cotangent; that of `ungraded` outputs, which depend on a maximum over the
    streamed axis, is not used: scores that are computed again need not be equal to it, so nobody knows which of them was the largest.
    `delta` says why delta is summed over the keys, "" where it is a sum over the features of an output.
    """

    forward: Streamed
    cascade: Cascade
    saved: tuple[Saved, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[Gradient, ...]
    ungraded: tuple[str, ...] = ()
    delta: str = ""


def differentiate(streamed: Streamed, wrt: tuple[str, ...], *, precise_delta: bool = False) -> Backward:
    """Gradients of all outputs with respect to float inputs; none for an input that no output depends on.

    Args:
        streamed: the forward in StreamingForm.
        wrt: names of float inputs.
        precise_delta: compute delta by a sweep over the keys instead of from saved outputs.

    Raises:
        NotDifferentiable: a name is not a float input.
    """
    tape = _Tape(streamed, wrt)
    for step in reversed(streamed.cascade.steps):
        tape.back(step)
    found = tuple(gradient for name in wrt for gradient in tape.gradients_of(name))
    inputs = arguments_first((*streamed.cascade.inputs, *tape.cotangent_inputs()))
    outputs = tuple(dict.fromkeys(gradient.step for gradient in found))
    whole = Cascade(inputs, (*streamed.cascade.steps, *tape.steps), outputs)
    if precise_delta:
        whole = exchange_sums(streamed, whole)
    forward, cascade, saved = evaluate_at_end(streamed, whole)
    return Backward(forward, cascade, saved, tape.cotangents, found, tape.ungraded)


@dataclass(frozen=True, slots=True)
class _Part:
    """One contribution to an adjoint: `expr` over the axes `space`, 0 where `where` fails or a read is masked; `over` are the axes that the
    target lacks."""

    expr: Expr
    space: tuple[str, ...]
    over: tuple[str, ...]
    where: Expr | None

    def onto(self, axes: tuple[str, ...]) -> _Part:
        return _Part(self.expr, self.space, tuple(axis for axis in self.space if axis not in axes), self.where)


class _Tape:
    def __init__(self, streamed: Streamed, wrt: tuple[str, ...]) -> None:
        self.cascade = streamed.cascade
        self.names = Names(streamed.cascade)
        self.streamed = streamed
        self.steps: list[Einsum] = []
        self.exists = guards(streamed.cascade)
        self.parts: dict[str, list[_Part]] = {}
        self.gathers: dict[str, list[tuple[Read, _Part]]] = {}
        self.cotangents = tuple((name, self.names.fresh(f"d{name}")) for name in streamed.cascade.outputs)
        self.active = self.depends_on(wrt)
        self.cut = {gauge.name for gauge in streamed.gauges}
        self.ungraded = self.of_maxima()
        for output, cotangent in self.cotangents:
            if output in self.ungraded:
                continue
            axes, step = self.cascade.axes(output), self.cascade.step(output)
            # A masked output is constant at masked elements; the mask of a reduction applies to its body only.
            where = step.where if step is not None and step.reduce is None else None
            part = _Part(build.read(cotangent, axes), axes, (), where)
            self.parts.setdefault(output, []).append(part)

    def of_maxima(self) -> tuple[str, ...]:
        """Outputs that depend on a maximum over the streamed axis."""
        found: set[str] = set()
        for step in self.cascade.steps:
            largest = step.reduce == "max" and self.streamed.streamed in step.over
            if largest or found & set(step_reads(step)):
                found.add(step.name)
        return tuple(name for name in self.cascade.outputs if name in found)

    def depends_on(self, wrt: tuple[str, ...]) -> set[str]:
        for name in wrt:
            item = self.cascade.input(name)
            if item is None or not item.differentiable:
                raise NotDifferentiable(f"{name} is not a float tensor")
        active = set(wrt)
        for step in self.cascade.steps:
            if any(name in active for name in names_read(step.body)):
                active.add(step.name)
        return active

    def cotangent_inputs(self) -> tuple[Input, ...]:
        axes = {output: self.cascade.axes(output) for output, _ in self.cotangents}
        return tuple(Input(cotangent, axes[output], len(axes[output])) for output, cotangent in self.cotangents)

    # ---- one step

    def back(self, step: Einsum) -> None:
        """Propagate the adjoint of one step to its reads."""
        if step.name not in self.active or step.name not in self.parts:
            return
        value = build.read(step.name, step.axes)
        space = (*step.axes, *step.over)
        for adjoint in self.close(step):
            adjoint = self.shared(step, value, adjoint)
            for read, expr in gradients(step.body, value if step.reduce is None else step.body, adjoint).items():
                if read.tensor in self.active and read.tensor not in self.cut:
                    self.record(read, _Part(expr, space, (), step.where))

    def shared(self, step: Einsum, value: Read, adjoint: Expr) -> Expr:
        """The adjoint of each element of a reduction; a maximum splits it equally at ties, as in PyTorch."""
        if step.reduce in (None, "sum"):
            return adjoint
        if step.reduce == "logsumexp":
            return build.mul(adjoint, build.exp(build.sub(step.body, value)))
        largest = build.apply("eq", step.body, value)
        body = build.apply("where", largest, build.ONE, build.ZERO)
        count = self.add(replace(step, name=self.names.fresh(f"{step.name}_count"), body=body, reduce="sum"))
        return build.apply("where", largest, build.apply("div", adjoint, count), build.ZERO)

    def record(self, read: Read, part: _Part) -> None:
        item = self.cascade.input(read.tensor)
        if item is not None and (item.axes is None or not at_own_axes(read, item.axes)):
            self.gathers.setdefault(read.tensor, []).append((read, part))
        else:
            self.parts.setdefault(read.tensor, []).append(part.onto(self.cascade.axes(read.tensor)))

    def close(self, step: Einsum) -> list[Read]:
        """The adjoint of a step, one read per mask; appends the steps that sum its parts."""
        parts = self.parts[step.name]
        if len(parts) == 1 and not parts[0].over and isinstance(parts[0].expr, Read):
            read, own = parts[0].expr, mask_of(self.exists[step.name])
            if mask_of(parts[0].where) <= own | mask_of(self.exists.get(read.tensor)):
                return [read]
        return self.combine(f"d{step.name}", step.axes, parts, step.loc)

    # ---- adding parts

    def combine(self, base: str, axes: tuple[str, ...], parts: list[_Part], loc: SourceLoc | None = None) -> list[Read]:
        """Steps that add parts, one per mask that differs."""
        if all(part.over for part in parts) and len({self.alike(part) for part in parts}) == 1:
            body = build.total([part.expr for part in parts])
            return [self.add(Einsum(self.names.fresh(base), axes, body, "sum", parts[0].over, parts[0].where, loc))]
        found: list[Read] = []
        for where, group in self.by_mask(parts, axes):
            name = self.names.fresh(base)
            terms = [self.masked(part, where) for part in group if not part.over]
            sums: dict[Hashable, list[_Part]] = {}
            for part in group:
                if part.over:
                    sums.setdefault(self.alike(part), []).append(part)
            for same in sums.values():
                body = build.total([part.expr for part in same])
                total = self.add(Einsum(self.names.fresh(f"{name}_part"), axes, body, "sum", same[0].over, same[0].where, loc))
                # The sum is 0 outside of its mask: the `where` makes that explicit, so that these zeros are not computed.
                exact = build.both(same[0].where, known(body, self.exists))
                narrower = without(exact, mask_of(where)) if set(free_axes(exact)) <= set(axes) else None
                terms.append(total if narrower is None else build.apply("where", narrower, total, build.ZERO))
            found.append(self.add(Einsum(name, axes, build.total(terms), where=where, loc=loc)))
        return found

    def alike(self, part: _Part) -> Hashable:
        """The key of parts that one reduction can add."""
        return part.over, part.where, mask_of(known(part.expr, self.exists))

    def by_mask(self, parts: list[_Part], axes: tuple[str, ...]) -> list[tuple[Expr | None, list[_Part]]]:
        """Groups of parts that one step can add: wherever the step exists, each part exists or is 0."""
        groups: list[tuple[Expr | None, list[_Part]]] = []
        whole = [(part, build.both(part.where, known(part.expr, self.exists))) for part in parts]
        for part, exact in sorted(whole, key=lambda item: (bool(item[0].over), len(mask_of(item[1])))):
            where = exact if set(free_axes(exact)) <= set(axes) else None
            for mask, group in groups:
                if mask_of(mask) <= mask_of(where) and (part.over or mask_of(known(part.expr, self.exists)) <= mask_of(mask)):
                    group.append(part)
                    break
            else:
                groups.append((where, [part]))
        return groups

    def masked(self, part: _Part, where: Expr | None) -> Expr:
        """A part extended by 0 to all elements where `where` holds."""
        narrower = without(part.where, mask_of(where))
        return part.expr if narrower is None else build.apply("where", narrower, part.expr, build.ZERO)

    def add(self, step: Einsum) -> Read:
        self.steps.append(step)
        self.exists[step.name] = None if step.reduce is not None else contributions(step, self.exists)
        return build.read(step.name, step.axes)

    # ---- gradients of inputs

    def gradients_of(self, target: str) -> list[Gradient]:
        item = self.cascade.input(target)
        if item is None:
            raise NotDifferentiable(f"{target} is not an input")
        gathered = [self.gather(item, *found) for found in self.gathers.get(target, [])]
        parts = self.parts.get(target, [])
        return gathered if item.axes is None or not parts else [*self.argument(item, item.axes, parts), *gathered]

    def argument(self, item: Input, axes: tuple[str, ...], parts: list[_Part]) -> list[Gradient]:
        """The gradient of an argument: a row tile with features, scattered elements of a bias, or else one partial per row."""
        resident, streamed = self.streamed.resident, self.streamed.streamed
        if {resident, streamed} <= set(axes):
            return [self.gather(item, build.read(item.name, axes), part) for part in parts]
        grid = self.grid()
        wide = streamed in axes or (resident in axes and any(axis not in grid and axis != resident for axis in axes))
        groups: dict[tuple[tuple[str, ...], frozenset[str]], list[_Part]] = {}
        for part in parts:
            own = self.finished_and(axes, part) if wide else self.rows_and(axes, part)
            # Parts summed over different grid axes belong to different kernels.
            groups.setdefault((own, frozenset(part.onto(own).over) & self.grid()), []).append(part.onto(own))
        sums = [total for (own, _), group in groups.items() for total in self.combine(f"d{item.name}", own, group)]
        return [Gradient(item.name, total.tensor) for total in sums]

    def rows_and(self, axes: tuple[str, ...], part: _Part) -> tuple[str, ...]:
        """The grid and sequence axes that a part varies along, and the target's own."""
        sequence = self.streamed.resident if self.streamed.resident in part.space else self.streamed.streamed
        rows = {*self.grid(), sequence} & set(part.space)
        return tuple(dict.fromkeys((*(axis for axis in free_axes(part.expr) if axis in rows), *axes)))

    def finished_and(self, axes: tuple[str, ...], part: _Part) -> tuple[str, ...]:
        """The target's axes and, for a part along one sequence axis only, its grid axes: a program holds one position of these."""
        if {self.streamed.resident, self.streamed.streamed} <= set(part.space):
            return axes
        return (*(axis for axis in part.space if axis in self.grid() - set(axes)), *axes)

    def gather(self, item: Input, read: Read, part: _Part) -> Gradient:
        """The partial gradient of one gather, over the axes of its position: a tile of pairs, or at least a row or column value."""
        position = {axis for at in read.at for axis in free_axes(at)}
        resident, streamed = self.streamed.resident, self.streamed.streamed
        if {resident, streamed} <= position:
            wanted = position
        elif resident not in part.space:
            wanted = position | self.grid() | {streamed}
        elif resident not in position and streamed in position:
            wanted = position | self.key_axes()
        else:
            wanted = position | self.grid() | {resident}
        own = tuple(axis for axis in part.space if axis in wanted)
        (total,) = self.combine(f"d{item.name}", own, [part.onto(own)])
        return Gradient(item.name, total.tensor, read.at)

    def key_axes(self) -> set[str]:
        """The streamed axis and the grid axes of the first argument along it."""
        for item in self.cascade.inputs:
            if item.axes is not None and self.streamed.streamed in item.axes:
                return (set(item.axes) & self.grid()) | {self.streamed.streamed}
        return {self.streamed.streamed}

    def grid(self) -> set[str]:
        """The axes of steps along both sequence axes, other than these two; all other axes are features."""
        pair = {self.streamed.resident, self.streamed.streamed}
        return {axis for step in self.cascade.steps if pair <= set(step.axes) for axis in step.axes if axis not in pair}

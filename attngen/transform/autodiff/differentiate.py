"""StreamingForm to gradients: reverse mode over the separated cascade, with the gauges cut.

After separation every sum is linear in what it accumulates and the outputs are row values of the sums, so each adjoint needs only row
and feature sums. The gauge is an input here: values do not depend on it, hence no derivative goes through it. Evaluated at the
finished row value Z (there `w = exp(x - Z)` and `norm = 1`, see `at_end`), plain softmax attention gives delta, dP and dS by itself:

    dl_i[m] = sum[e] -do[m,e] * acc[m,e]         (acc = o at Z)
    dw[m,n] = sum[e] do[m,e] * v[n,e] + dl_i[m]
    dx[m,n] = dw[m,n] * w[m,n]

What the backward reads of the forward is the saved state: the Z of each gauge, and sums that no output gives back.
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
    """How one gradient is completed outside the kernels: sum `step` over the axes the target lacks, then, for a capture, add it
    into the positions `at`. A target may have several, which add up."""

    target: str
    step: str
    at: tuple[Expr, ...] | None = None


@dataclass(frozen=True, slots=True)
class Backward:
    """Forward with its saved steps, and the gradient cascade that reads them.

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
    """Gradients of all outputs with respect to float arguments and captures. An input that no output depends on has none.

    Args:
        streamed: the forward in StreamingForm.
        wrt: names of float inputs.
        precise_delta: sums over features of saved sums are taken over the keys instead.

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
    """One contribution to an adjoint: `expr` over the axes `space`, where `where` holds and all it reads exists, 0 elsewhere; `over` are
    the axes that the target lacks."""

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
            # A masked output is constant where it is missing; a reduction exists everywhere, its mask is of what it reduces.
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
        """Push the adjoint of one step to what it reads."""
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
        """What each element of a reduction gets of its adjoint; the largest ones share that of a maximum equally, as in PyTorch."""
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
        """The adjoint of a step: one read for each mask, adding steps that sum its parts."""
        parts = self.parts[step.name]
        if len(parts) == 1 and not parts[0].over and isinstance(parts[0].expr, Read):
            read, own = parts[0].expr, mask_of(self.exists[step.name])
            if mask_of(parts[0].where) <= own | mask_of(self.exists.get(read.tensor)):
                return [read]
        return self.combine(f"d{step.name}", step.axes, parts, step.loc)

    # ---- adding parts

    def combine(self, base: str, axes: tuple[str, ...], parts: list[_Part], loc: SourceLoc | None = None) -> list[Read]:
        """Steps that add parts, one for each mask that cannot be hidden."""
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
                # The sum is 0 outside of its mask; said once more, so that nobody has to compute those zeros.
                exact = build.both(same[0].where, known(body, self.exists))
                narrower = without(exact, mask_of(where)) if set(free_axes(exact)) <= set(axes) else None
                terms.append(total if narrower is None else build.apply("where", narrower, total, build.ZERO))
            found.append(self.add(Einsum(name, axes, build.total(terms), where=where, loc=loc)))
        return found

    def alike(self, part: _Part) -> Hashable:
        """What parts share that one reduction can add."""
        return part.over, part.where, mask_of(known(part.expr, self.exists))

    def by_mask(self, parts: list[_Part], axes: tuple[str, ...]) -> list[tuple[Expr | None, list[_Part]]]:
        """Groups of parts that one step can add: each vanishes or exists wherever the step exists."""
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
        """A part as a value that exists where `where` holds: 0 where it has no contribution."""
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
        """The gradient of an argument: a tile of rows or keys with features, stored elements of a bias, else one partial a row."""
        resident, streamed = self.streamed.resident, self.streamed.streamed
        if {resident, streamed} <= set(axes):
            return [self.gather(item, build.read(item.name, axes), part) for part in parts]
        grid = self.grid()
        wide = streamed in axes or (resident in axes and any(axis not in grid and axis != resident for axis in axes))
        groups: dict[tuple[tuple[str, ...], frozenset[str]], list[_Part]] = {}
        for part in parts:
            kept = self.finished_and(axes, part) if wide else self.rows_and(axes, part)
            # What is summed over axes of the grid and what is not are not of one kernel.
            groups.setdefault((kept, frozenset(part.onto(kept).over) & self.grid()), []).append(part.onto(kept))
        sums = [total for (kept, _), group in groups.items() for total in self.combine(f"d{item.name}", kept, group)]
        return [Gradient(item.name, total.tensor) for total in sums]

    def rows_and(self, axes: tuple[str, ...], part: _Part) -> tuple[str, ...]:
        """Grid axes and the sequence axis of a part, as far as it varies along them, and the target's own."""
        sequence = self.streamed.resident if self.streamed.resident in part.space else self.streamed.streamed
        rows = {*self.grid(), sequence} & set(part.space)
        return tuple(dict.fromkeys((*(axis for axis in free_axes(part.expr) if axis in rows), *axes)))

    def finished_and(self, axes: tuple[str, ...], part: _Part) -> tuple[str, ...]:
        """The target's axes and, where a part is made of finished values of rows or keys, the grid axes that it varies along: a program
        has those of one position only."""
        if {self.streamed.resident, self.streamed.streamed} <= set(part.space):
            return axes
        return (*(axis for axis in part.space if axis in self.grid() - set(axes)), *axes)

    def gather(self, item: Input, read: Read, part: _Part) -> Gradient:
        """The partial gradient of one gathered read, over the axes that its position names: pairs, or at least a whole row or column."""
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
        kept = tuple(axis for axis in part.space if axis in wanted)
        (total,) = self.combine(f"d{item.name}", kept, [part.onto(kept)])
        return Gradient(item.name, total.tensor, read.at)

    def key_axes(self) -> set[str]:
        """Grid axes of the first argument along the streamed axis, and that axis."""
        for item in self.cascade.inputs:
            if item.axes is not None and self.streamed.streamed in item.axes:
                return (set(item.axes) & self.grid()) | {self.streamed.streamed}
        return {self.streamed.streamed}

    def grid(self) -> set[str]:
        """The axes of the tiles between rows and keys, besides these two: all others are features."""
        pair = {self.streamed.resident, self.streamed.streamed}
        return {axis for step in self.cascade.steps if pair <= set(step.axes) for axis in step.axes if axis not in pair}

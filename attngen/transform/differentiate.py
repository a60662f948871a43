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

from dataclasses import dataclass

from attngen.errors import MaskMismatch, NotDifferentiable
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, names_read
from attngen.source import SourceLoc
from attngen.transform.at_end import Saved, evaluate_at_end
from attngen.transform.derivative import gradients
from attngen.transform.existence import ALWAYS, Mask, contributions, existence, mask_of, predicate_of
from attngen.transform.gauges import at_own_axes
from attngen.transform.streaming import Streamed

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

    `cotangents` pairs each output with the input that carries its cotangent.
    """

    forward: Streamed
    cascade: Cascade
    saved: tuple[Saved, ...]
    cotangents: tuple[tuple[str, str], ...]
    gradients: tuple[Gradient, ...]


def differentiate(streamed: Streamed, wrt: tuple[str, ...]) -> Backward:
    """Gradients of all outputs with respect to float arguments and captures. An input that no output depends on has none.

    Args:
        streamed: the forward in StreamingForm.
        wrt: names of float inputs.

    Raises:
        NotDifferentiable: a name is not a float input, or a maximum over a feature axis stands in between.
        MaskMismatch: contributions under different masks cannot be added.
    """
    tape = _Tape(streamed, wrt)
    for step in reversed(streamed.cascade.steps):
        tape.back(step)
    found = tuple(gradient for name in wrt for gradient in tape.gradients_of(name))
    inputs = (*streamed.cascade.inputs, *tape.cotangent_inputs())
    outputs = tuple(dict.fromkeys(gradient.step for gradient in found))
    whole = Cascade(inputs, (*streamed.cascade.steps, *tape.steps), outputs)
    forward, cascade, saved = evaluate_at_end(streamed, whole)
    return Backward(forward, cascade, saved, tape.cotangents, found)


@dataclass(frozen=True, slots=True)
class _Part:
    """One contribution to an adjoint: `expr` over the axes `space`, where `where` holds; `over` are those that the target lacks."""

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
        self.exists = existence(streamed.cascade)
        self.parts: dict[str, list[_Part]] = {}
        self.gathers: dict[str, list[tuple[Read, _Part]]] = {}
        self.cotangents = tuple((name, self.names.fresh(f"d{name}")) for name in streamed.cascade.outputs)
        self.active = self.depends_on(wrt)
        self.cut = {gauge.name for gauge in streamed.gauges}
        for output, cotangent in self.cotangents:
            axes, step = self.cascade.axes(output), self.cascade.step(output)
            # A masked output is constant where it is missing; a reduction exists everywhere, its mask is of what it reduces.
            where = step.where if step is not None and step.reduce is None else None
            part = _Part(build.read(cotangent, axes), axes, (), where)
            self.parts.setdefault(output, []).append(part)

    def depends_on(self, wrt: tuple[str, ...]) -> set[str]:
        for name in wrt:
            item = self.cascade.input(name)
            if item is None or item.kind != "float" or item.by_value:
                raise NotDifferentiable(f"{name} is not a float input")
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
        if step.reduce not in (None, "sum"):
            raise NotDifferentiable(
                f"the gradient through {step.reduce} over {', '.join(step.over)} is not derived",
                loc=step.loc,
                remedy="Only sums may reduce over a feature axis when gradients are needed.",
            )
        adjoint = self.close(step)
        value = build.read(step.name, step.axes)
        space = (*step.axes, *step.over)
        for read, expr in gradients(step.body, value if step.reduce is None else step.body, adjoint).items():
            if read.tensor in self.active and read.tensor not in self.cut:
                self.record(read, _Part(expr, space, (), step.where))

    def record(self, read: Read, part: _Part) -> None:
        item = self.cascade.input(read.tensor)
        if item is not None and (item.axes is None or not at_own_axes(read, item.axes)):
            self.gathers.setdefault(read.tensor, []).append((read, part))
        else:
            self.parts.setdefault(read.tensor, []).append(part.onto(self.cascade.axes(read.tensor)))

    def close(self, step: Einsum) -> Expr:
        """The adjoint of a step as one read, adding a step that sums its parts if there are several."""
        parts = self.parts[step.name]
        own = self.exists[step.name]
        if len(parts) == 1 and not parts[0].over and isinstance(parts[0].expr, Read) and mask_of(parts[0].where) <= own:
            return parts[0].expr
        return self.combine(self.names.fresh(f"d{step.name}"), step.axes, parts, own, step.loc)

    # ---- adding parts

    def combine(self, name: str, axes: tuple[str, ...], parts: list[_Part], own: Mask = ALWAYS, loc: SourceLoc | None = None) -> Expr:
        """A step with the sum of parts.

        Args:
            own: where the target exists; elsewhere its adjoint is of no interest.
        """
        sums: dict[tuple[tuple[str, ...], Expr | None], list[Expr]] = {}
        for part in parts:
            if part.over:
                sums.setdefault((part.over, part.where), []).append(part.expr)
        if len(sums) == 1 and all(part.over for part in parts):
            ((over, mask), exprs) = next(iter(sums.items()))
            self.add(Einsum(name, axes, build.total(exprs), "sum", over, mask, loc))
            return build.read(name, axes)
        where = self.common(parts, axes)
        inside = own if where is None else mask_of(where)
        terms = [self.term(part, inside, loc) for part in parts if not part.over]
        for (over, mask), exprs in sums.items():
            inner = self.names.fresh(f"{name}_part")
            self.add(Einsum(inner, axes, build.total(exprs), "sum", over, mask, loc))
            terms.append(build.read(inner, axes))
        self.add(Einsum(name, axes, build.total(terms), where=where, loc=loc))
        return build.read(name, axes)

    def common(self, parts: list[_Part], axes: tuple[str, ...]) -> Expr | None:
        """The mask that all parts share, if it makes sense over these axes: nothing is lost outside of it."""
        masks = {mask_of(part.where) for part in parts}
        where = parts[0].where
        return where if len(masks) == 1 and set(free_axes(where)) <= set(axes) else None

    def term(self, part: _Part, inside: Mask, loc: SourceLoc | None) -> Expr:
        """A part as a value that exists at least inside of a mask, 0 where the part has no contribution."""
        missing = {name for name in names_read(part.expr) if not self.exists.get(name, ALWAYS) <= inside}
        if missing:
            raise MaskMismatch(
                f"a gradient adds contributions under different masks: {', '.join(sorted(missing))} exists under a narrower one",
                loc=loc,
                remedy="Give both uses of the value the same mask.",
            )
        narrower = predicate_of(mask_of(part.where) - inside, part.where)
        return part.expr if narrower is None else build.apply("where", narrower, part.expr, build.ZERO)

    def add(self, step: Einsum) -> None:
        self.steps.append(step)
        self.exists[step.name] = ALWAYS if step.reduce is not None else contributions(step, self.exists)

    # ---- gradients of inputs

    def gradients_of(self, target: str) -> list[Gradient]:
        item = self.cascade.input(target)
        if item is None:
            raise NotDifferentiable(f"{target} is not an input")
        gathered = [self.gather(item, *found) for found in self.gathers.get(target, [])]
        parts = self.parts.get(target, [])
        return gathered if item.axes is None or not parts else [*self.argument(item, item.axes, parts), *gathered]

    def argument(self, item: Input, axes: tuple[str, ...], parts: list[_Part]) -> list[Gradient]:
        """One gradient for an argument along a sequence axis; for others one partial a row, as far as the parts vary."""
        groups: dict[tuple[str, ...], list[_Part]] = {}
        for part in parts:
            kept = axes if {self.streamed.resident, self.streamed.streamed} & set(axes) else self.rows_and(axes, part)
            groups.setdefault(kept, []).append(part.onto(kept))
        found: list[Gradient] = []
        for kept, group in groups.items():
            name = self.names.fresh(f"d{item.name}")
            self.combine(name, kept, group)
            found.append(Gradient(item.name, name))
        return found

    def rows_and(self, axes: tuple[str, ...], part: _Part) -> tuple[str, ...]:
        """Grid axes and the sequence axis of a part, as far as it varies along them, and the target's own."""
        sequence = self.streamed.resident if self.streamed.resident in part.space else self.streamed.streamed
        rows = {*self.grid(), sequence} & set(part.space)
        return tuple(dict.fromkeys((*(axis for axis in free_axes(part.expr) if axis in rows), *axes)))

    def gather(self, item: Input, read: Read, part: _Part) -> Gradient:
        """The partial gradient of one gathered read, over the axes that its position names (at least a whole row or column)."""
        position = {axis for at in read.at for axis in free_axes(at)}
        resident, streamed = self.streamed.resident, self.streamed.streamed
        columns = resident not in position and (streamed in position or resident not in part.space)
        wanted = position | (self.key_axes() if columns else {*self.grid(), resident})
        kept = tuple(axis for axis in part.space if axis in wanted)
        name = self.names.fresh(f"d{item.name}")
        self.combine(name, kept, [part.onto(kept)])
        return Gradient(item.name, name, read.at)

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

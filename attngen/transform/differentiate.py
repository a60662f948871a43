"""StreamingForm to gradients: reverse mode over the separated cascade, with the gauges cut.

After separation every sum is linear in what it accumulates and the outputs are row values of the sums, so each adjoint needs only row
and feature sums. The gauge is an input here: values do not depend on it, hence no derivative goes through it. Evaluated at the
finished row value Z (there `w = exp(x - Z)` and `norm = 1`), plain softmax attention gives delta, dP and dS by itself:

    dl_i[m] = sum[e] -do[m,e] * acc[m,e]         (acc = o at Z)
    dw[m,n] = sum[e] do[m,e] * v[n,e] + dl_i[m]
    dx[m,n] = dw[m,n] * w[m,n]

What the backward reads of the forward is the saved state: the Z of each gauge, and sums that no output gives back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

from attngen.errors import MaskMismatch, NotDifferentiable
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, live_steps, names_read, reads, rewrite
from attngen.transform.derivative import gradients
from attngen.transform.streaming import Accumulator, Streamed


@dataclass(frozen=True, slots=True)
class Gradient:
    """How one gradient is completed outside the kernels: sum `step` over the axes the target lacks, then, for a capture, add it
    into the positions `at`."""

    target: str
    step: str
    at: tuple[Expr, ...] | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A row value that the forward keeps for the backward; `is_output` ones cost nothing."""

    name: str
    is_output: bool


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
    """Gradients of all outputs with respect to float arguments and captures.

    Args:
        streamed: the forward in StreamingForm.
        wrt: names of float inputs.
    """
    tape = _Tape(streamed, wrt)
    for step in reversed(streamed.cascade.steps):
        tape.back(step)
    found = tuple(gradient for name in wrt for gradient in tape.gradients_of(name))
    inputs = (*streamed.cascade.inputs, *tape.cotangent_inputs())
    outputs = tuple(dict.fromkeys(gradient.step for gradient in found))
    whole = Cascade(inputs, (*streamed.cascade.steps, *tape.steps), outputs)
    return _evaluate_at_end(streamed, whole, tape.cotangents, found)


@dataclass(frozen=True, slots=True)
class _Part:
    expr: Expr
    over: tuple[str, ...]
    where: Expr | None


class _Tape:
    def __init__(self, streamed: Streamed, wrt: tuple[str, ...]) -> None:
        self.cascade = streamed.cascade
        self.names = Names(streamed.cascade)
        self.streamed = streamed
        self.steps: list[Einsum] = []
        self.parts: dict[str, list[_Part]] = {}
        self.gathers: dict[str, list[tuple[Read, _Part, tuple[str, ...]]]] = {}
        self.cotangents = tuple((name, self.names.fresh(f"d{name}")) for name in streamed.cascade.outputs)
        self.active = self._active(wrt)
        self.cut = {gauge.name for gauge in streamed.gauges}
        for output, cotangent in self.cotangents:
            self.parts.setdefault(output, []).append(_Part(build.read(cotangent, self.cascade.axes(output)), (), None))

    def _active(self, wrt: tuple[str, ...]) -> set[str]:
        active = set(wrt)
        for step in self.cascade.steps:
            if any(name in active for name in names_read(step.body)):
                active.add(step.name)
        return active

    def cotangent_inputs(self) -> tuple[Input, ...]:
        axes = {output: self.cascade.axes(output) for output, _ in self.cotangents}
        return tuple(Input(cotangent, axes[output], len(axes[output])) for output, cotangent in self.cotangents)

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
        for read, part in gradients(step.body, value if step.reduce is None else step.body, adjoint).items():
            if read.tensor in self.active and read.tensor not in self.cut:
                self.record(read, part, space, step.where)

    def record(self, read: Read, expr: Expr, space: tuple[str, ...], where: Expr | None) -> None:
        item = self.cascade.input(read.tensor)
        if item is not None and item.axes is None:
            self.gathers.setdefault(read.tensor, []).append((read, _Part(expr, (), where), space))
            return
        axes = self.cascade.axes(read.tensor)
        over = tuple(axis for axis in space if axis not in axes)
        self.parts.setdefault(read.tensor, []).append(_Part(expr, over, where))

    def close(self, step: Einsum) -> Expr:
        """The adjoint of a step as one read, adding a step that sums its parts if there are several."""
        parts = self.parts[step.name]
        if len(parts) == 1 and not parts[0].over and isinstance(parts[0].expr, Read):
            return parts[0].expr
        name = self.names.fresh(f"d{step.name}")
        return self.combine(name, step.axes, parts, step)

    def combine(self, name: str, axes: tuple[str, ...], parts: list[_Part], step: Einsum | None) -> Expr:
        loc = step.loc if step is not None else None
        wheres = {part.where for part in parts if not part.over}
        if len(wheres) > 1:
            raise MaskMismatch("gradients that exist under different masks meet in one value", loc=loc)
        terms: list[Expr] = []
        sums: dict[tuple[tuple[str, ...], Expr | None], list[Expr]] = {}
        for part in parts:
            if part.over:
                sums.setdefault((part.over, part.where), []).append(part.expr)
            else:
                terms.append(part.expr)
        for (over, mask), exprs in sums.items():
            alone = len(sums) == 1 and not terms
            inner = name if alone else self.names.fresh(f"{name}_part")
            self.steps.append(Einsum(inner, axes, build.total(exprs), "sum", over, mask, loc))
            if alone:
                return build.read(name, axes)
            terms.append(build.read(inner, axes))
        where = build.both(*(part.where for part in parts if self.streamed.streamed in axes and self.streamed.resident in axes))
        self.steps.append(Einsum(name, axes, build.total(terms), where=where, loc=loc))
        return build.read(name, axes)

    def gradients_of(self, target: str) -> list[Gradient]:
        item = self.cascade.input(target)
        if item is None:
            raise NotDifferentiable(f"{target} is not an input")
        if item.axes is not None:
            parts = self.parts.get(target)
            return [] if not parts else [self.argument(item, item.axes, parts)]
        return [self.gather(item, *found) for found in self.gathers.get(target, [])]

    def argument(self, item: Input, axes: tuple[str, ...], parts: list[_Part]) -> Gradient:
        name = self.names.fresh(f"d{item.name}")
        sequence = {self.streamed.resident, self.streamed.streamed}
        if sequence & set(axes):
            self.combine(name, axes, parts, None)
            return Gradient(item.name, name)
        kept = tuple(dict.fromkeys((*self.row_axes(parts), *axes)))
        shorter = [replace(part, over=tuple(a for a in part.over if a not in kept)) for part in parts]
        self.combine(name, kept, shorter, None)
        return Gradient(item.name, name)

    def row_axes(self, parts: list[_Part]) -> tuple[str, ...]:
        """Grid axes and the resident axis, as far as the parts vary along them: one partial gradient a row."""
        drop = {self.streamed.streamed, *self.features()}
        axes = dict.fromkeys(axis for part in parts for axis in free_axes(part.expr) if axis not in drop)
        return tuple(axes)

    def gather(self, item: Input, read: Read, part: _Part, space: tuple[str, ...]) -> Gradient:
        """The partial gradient of one gathered read, over the axes that its position names (at least a whole row or column)."""
        position = tuple(dict.fromkeys(axis for at in read.at for axis in free_axes(at)))
        features = tuple(axis for axis in position if axis in self.features())
        resident, streamed = self.streamed.resident, self.streamed.streamed
        if resident in position and streamed in position:
            kept = tuple(axis for axis in space if axis not in self.features() or axis in position)
        elif streamed in position:
            kept = tuple(axis for axis in (*self.key_axes(), *features) if axis in space or axis in position)
            kept = tuple(dict.fromkeys((*(a for a in position if a not in kept and a not in features), *kept)))
        else:
            kept = tuple(axis for axis in space if axis != streamed and axis not in self.features()) + features
        over = tuple(axis for axis in space if axis not in kept)
        name = self.names.fresh(f"d{item.name}")
        self.combine(name, kept, [replace(part, over=over)], None)
        return Gradient(item.name, name, read.at)

    def key_axes(self) -> tuple[str, ...]:
        """Axes of the first argument along the streamed axis, without its feature."""
        for item in self.cascade.inputs:
            if item.axes is not None and self.streamed.streamed in item.axes:
                return tuple(axis for axis in item.axes if axis not in self.features())
        return (self.streamed.streamed,)

    def features(self) -> set[str]:
        """Axes reduced or carried besides the grid and the two sequence axes: the last axes of the largest arguments, and axes of
        contractions between captures."""
        ranks = [item.rank for item in self.cascade.inputs if item.axes is not None]
        found = {item.axes[-1] for item in self.cascade.inputs if item.axes and item.rank == max(ranks)}
        known = {axis for item in self.cascade.inputs for axis in item.axes or ()}
        found |= {axis for step in self.cascade.steps for axis in step.over if axis not in known}
        return found - {self.streamed.resident, self.streamed.streamed}


def _evaluate_at_end(streamed: Streamed, whole: Cascade, cotangents: tuple[tuple[str, str], ...], found: tuple[Gradient, ...]) -> Backward:
    """Replace what the forward computed by its value at the end of the pass: gauge = Z, norm = 1, sums = saved tensors."""
    end = _End(streamed)
    own = {step.name for step in streamed.cascade.steps}
    steps: list[Einsum] = []
    for step in whole.steps:
        if step.name in own and (step.name in end.rows or step.reduce == "sum" and streamed.streamed in step.over):
            continue
        where = None if step.where is None else end.value(step.where)
        steps.append(replace(step, body=end.value(step.body), where=where))
    forward = end.forward()
    outputs = tuple(dict.fromkeys(gradient.step for gradient in found))
    axes = {step.name: step.axes for step in forward.cascade.steps}
    kept = tuple(Input(name, axes[name], len(axes[name])) for name in end.saved)
    gauges = {gauge.name for gauge in streamed.gauges}
    inputs = (*(item for item in whole.inputs if item.name not in gauges), *kept)
    cascade = Cascade(inputs, tuple(steps), outputs)
    cascade = replace(cascade, steps=live_steps(cascade))
    used = {name for step in cascade.steps for name in (*names_read(step.body), *names_read(step.where))}
    used |= set(outputs)
    # A gradient may be a cotangent itself: then it is no step, and nothing has to compute it.
    cascade = replace(cascade, inputs=tuple(item for item in cascade.inputs if item.name in used or item.name not in end.saved))
    saved = tuple(Saved(name, name in streamed.cascade.outputs) for name in end.saved if name in used)
    return Backward(end.forward(), cascade, saved, cotangents, found)


class _End:
    """Values at the end of the pass, in terms of outputs and saved tensors."""

    def __init__(self, streamed: Streamed) -> None:
        self.streamed = streamed
        self.by_name = {step.name: step for step in streamed.cascade.steps}
        self.accumulators = {item.name: item for item in streamed.accumulators}
        self.gauges = {gauge.name: gauge for gauge in streamed.gauges}
        self.ends = {gauge.value for gauge in streamed.gauges}
        self.norms = {read.tensor for gauge in streamed.gauges for read in reads(gauge.norm)}
        self.rows = self._rows()
        self.saved: dict[str, Einsum | None] = {}
        self.names = Names(streamed.cascade)
        self.recovered = self._recover()

    def _rows(self) -> set[str]:
        """Steps computed from finished sums."""
        rows = set(self.accumulators)
        for step in self.streamed.cascade.steps:
            if any(name in rows for name in names_read(step.body)):
                rows.add(step.name)
        return rows

    def value(self, expr: Expr) -> Expr:
        """The expression with every finished value replaced, folded again."""

        def rule(node: Expr) -> Expr | None:
            match node:
                case Read(tensor=tensor):
                    return self.read(tensor)
                case Apply(op=op, args=args):
                    return build.apply(op, *args)
                case _:
                    return None

        return rewrite(expr, rule)

    def read(self, name: str) -> Expr | None:
        if name in self.gauges:
            end = self.keep(self.gauges[name].value)
            return build.apply("where", build.apply("eq", end, build.NEG_INF), build.INF, end)
        if name in self.norms:
            return build.ONE
        if name in self.ends:
            return self.keep(name)
        if name in self.accumulators:
            return self.recovered[name] if name in self.recovered else self.keep_sum(name)
        if name in self.rows:
            return self.value(self.by_name[name].body)
        return None

    def keep(self, name: str) -> Expr:
        self.saved.setdefault(name, None)
        return build.read(name, self.by_name[name].axes)

    def keep_sum(self, name: str) -> Expr:
        """Save a sum at its end value; an output that equals it is used instead."""
        step = self.by_name[name]
        body = self.transported(self.accumulators[name])
        same = next((s.name for s in self.streamed.cascade.steps if s.body == body and s.reduce is None), None)
        if isinstance(body, Read) or same is not None:
            return self.keep(same or name)
        stored = f"{name}_end"
        self.saved.setdefault(stored, Einsum(stored, step.axes, body, loc=step.loc))
        return build.read(stored, step.axes)

    def transported(self, item: Accumulator) -> Expr:
        """The sum with every gauge moved from the running value to its end: w gains 1 / norm, y loses log(norm)."""
        step = self.by_name[item.name]
        result: Expr = build.read(item.name, step.axes)
        chain, power = [result], sum(count for _, count in item.offset_power)
        lower = item.lower
        while lower is not None:
            chain.append(build.read(lower, self.by_name[lower].axes))
            lower = self.accumulators[lower].lower
        if power:
            drop = build.log(self.gauges[item.offset_power[0][0]].norm)
            result = build.ZERO
            for i, sum_ in enumerate(chain):
                factor: Expr = build.const(float(comb(power, i) * (-1) ** i))
                for _ in range(i):
                    factor = build.mul(factor, drop)
                result = build.add(result, build.mul(factor, sum_))
        for gauge, count in item.weight_power:
            for _ in range(count):
                result = build.safe_div(result, self.gauges[gauge].norm)
        return result

    def _recover(self) -> dict[str, Expr]:
        """Sums that an output gives back: o = acc / l + rest is solved for acc, one sum an output."""
        self.recovered: dict[str, Expr] = {}
        for output in self.streamed.cascade.outputs:
            step = self.by_name.get(output)
            if step is None or output in self.ends:
                continue
            solved = self.solve(step)
            if solved is not None:
                self.recovered[solved[0]] = solved[1]
        return self.recovered

    def solve(self, step: Einsum) -> tuple[str, Expr] | None:
        if step.name in self.accumulators:
            return step.name, self.keep(step.name)
        terms = _terms(self.partial(step.body))
        for i, (sign, term) in enumerate(terms):
            name, factor = _quotient(term)
            others = [other for j, other in enumerate(terms) if j != i]
            if name not in self.accumulators or name in self.recovered or self.by_name[name].axes != step.axes:
                continue
            if any(name in names_read(other) for _, other in others) or name in names_read(factor):
                continue
            rest = build.total([other if s > 0 else build.neg(other) for s, other in others])
            value = build.sub(self.keep(step.name), self.value(rest))
            value = build.mul(value, self.value(factor))
            return name, value if sign > 0 else build.neg(value)
        return None

    def partial(self, expr: Expr) -> Expr:
        """The expression with gauges and norms at their end, sums still by name."""

        def rule(node: Expr) -> Expr | None:
            match node:
                case Read(tensor=tensor) if tensor in self.norms:
                    return build.ONE
                case Read(tensor=tensor) if tensor in self.rows and tensor not in self.accumulators and tensor not in self.ends:
                    return self.partial(self.by_name[tensor].body)
                case Apply(op=op, args=args):
                    return build.apply(op, *args)
                case _:
                    return None

        return rewrite(expr, rule)

    def forward(self) -> Streamed:
        """The forward with a step for each saved sum."""
        extra = tuple(step for step in self.saved.values() if step is not None)
        cascade = self.streamed.cascade
        return replace(self.streamed, cascade=replace(cascade, steps=(*cascade.steps, *extra)))


def _terms(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    match expr:
        case Apply(op="add", args=(a, b)):
            return [*_terms(a, sign), *_terms(b, sign)]
        case Apply(op="sub", args=(a, b)):
            return [*_terms(a, sign), *_terms(b, -sign)]
        case Apply(op="neg", args=(a,)):
            return _terms(a, -sign)
        case _:
            return [(sign, expr)]


def _quotient(term: Expr) -> tuple[str, Expr]:
    """`acc` or `safe_div(acc, factor)`; ('', 1) for anything else."""
    match term:
        case Read(tensor=name, at=at) if all(isinstance(a, Index) for a in at):
            return name, build.ONE
        case Apply(op="safe_div", args=(Read(tensor=name), factor)):
            return name, factor
        case _:
            return "", build.ONE

"""Saved state: the gradient cascade with forward values replaced by their values at the end of the pass.

There every gauge is its row value Z, so `w = exp(x - Z)`, `norm = 1` and `y = x - Z`; every sum is a saved tensor or recovered from an
output (`o = acc / l` gives `acc = o`, since l is 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import comb

from attngen.ir import build
from attngen.ir.algebra import signed_sum, signed_terms
from attngen.ir.cascade import Cascade, Einsum, Input, arguments_first
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import LONG, live_steps, names_read, occurrences, reads, rewrite, step_reads
from attngen.transform.streaming.gauges import Accumulator
from attngen.transform.streaming.streaming import Streamed


@dataclass(frozen=True, slots=True)
class Saved:
    """A row value that the forward saves for the backward; an output (`is_output`) costs nothing."""

    name: str
    is_output: bool


def evaluate_at_end(streamed: Streamed, whole: Cascade) -> tuple[Streamed, Cascade, tuple[Saved, ...]]:
    """Replace the values of the forward by those at the end of the pass.

    Args:
        streamed: the forward.
        whole: its steps, followed by gradient steps that read them.

    Returns:
        The forward with a step for each saved sum, the gradient cascade, and its saved state.
    """
    end = _End(streamed, Names(whole))
    own = {step.name for step in streamed.cascade.steps}
    steps: list[Einsum] = []
    for step in whole.steps:
        if step.name in own and step.name in end.rows and not end.is_long(step.name):
            continue
        where = None if step.where is None else end.value(step.where)
        steps.append(replace(step, body=end.value(step.body), where=where))
    forward = end.forward()
    axes = {step.name: step.axes for step in forward.cascade.steps}
    state = tuple(Input(name, axes[name], len(axes[name])) for name in end.saved)
    gauges = {gauge.name for gauge in streamed.gauges}
    inputs = arguments_first((*(item for item in whole.inputs if item.name not in gauges), *state))
    cascade = Cascade(inputs, tuple(steps), whole.outputs)
    cascade = replace(cascade, steps=live_steps(cascade))
    # A gradient may be a cotangent itself, which is an input and no step.
    used = {name for step in cascade.steps for name in step_reads(step)} | set(whole.outputs)
    cascade = replace(cascade, inputs=tuple(item for item in cascade.inputs if item.name in used or item.name not in end.saved))
    saved = tuple(Saved(name, name in streamed.cascade.outputs) for name in end.saved if name in used)
    return forward, cascade, saved


class _End:
    """Values at the end of the pass, in terms of outputs and saved tensors."""

    def __init__(self, streamed: Streamed, names: Names) -> None:
        self.streamed = streamed
        self.names = names
        self.by_name = {step.name: step for step in streamed.cascade.steps}
        self.accumulators = {item.name: item for item in streamed.accumulators}
        self.gauges = {gauge.name: gauge for gauge in streamed.gauges}
        self.ends = {gauge.value for gauge in streamed.gauges}
        self.norms = {read.tensor for gauge in streamed.gauges for read in reads(gauge.norm)}
        self.rows = self.finished()
        self.lengths = self.written_out()
        self.saved: dict[str, Einsum | None] = {}
        self.stored: dict[str, Expr] = {}
        self.recovered = self.recover()

    def finished(self) -> set[str]:
        """Sums, and steps that depend on them or on a gauge, other than weights and offsets."""
        rows = set(self.accumulators)
        for step in self.streamed.cascade.steps:
            is_row = self.streamed.streamed not in step.axes
            if any(name in rows or (is_row and name in self.gauges) for name in step_reads(step)):
                rows.add(step.name)
        return rows

    def value(self, expr: Expr) -> Expr:
        """The expression with every finished value replaced, folded again."""
        return rewrite(expr, partial(self.of_node, {}))

    def of_node(self, rows: dict[str, Expr], node: Expr) -> Expr | None:
        """A node at the end of the pass; `rows` are the row values met before."""
        match node:
            case Read(tensor=tensor) if tensor in rows:
                return rows[tensor]
            case Read(tensor=tensor):
                found = self.read(tensor, rows)
                return None if found is None else rows.setdefault(tensor, found)
            case Apply(op=op, args=args):
                return build.apply(op, *args)
            case _:
                return None

    def read(self, name: str, rows: dict[str, Expr]) -> Expr | None:
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
            return None if self.is_long(name) else self.row(self.by_name[name], rows)
        return None

    def row(self, step: Einsum, rows: dict[str, Expr]) -> Expr:
        """A row value, computed again; one that reduces or has a mask of its own is kept instead."""
        return rewrite(step.body, partial(self.of_node, rows)) if self.is_again(step) else self.keep(step.name)

    def is_again(self, step: Einsum) -> bool:
        return step.reduce is None and step.where is None

    def is_long(self, name: str) -> bool:
        """Whether a row value that is computed again is too long to be written where it is read: it stays a step."""
        return self.lengths.get(name, 0) > LONG

    def written_out(self) -> dict[str, int]:
        """The operations of each row value that is computed again, with those of the row values in it."""
        found: dict[str, int] = {}
        fixed = {*self.gauges, *self.norms, *self.ends, *self.accumulators}
        for step in self.streamed.cascade.steps:
            if step.name in self.rows - fixed and self.is_again(step):
                nodes = occurrences(step.body).items()
                own = sum(count for node, count in nodes if isinstance(node, Apply))
                found[step.name] = own + sum(count * found.get(node.tensor, 0) for node, count in nodes if isinstance(node, Read))
        return found

    def keep(self, name: str) -> Expr:
        self.saved.setdefault(name, None)
        return build.read(name, self.by_name[name].axes)

    def keep_sum(self, name: str) -> Expr:
        """Save the final value of a sum, or use an output that equals it."""
        step = self.by_name[name]
        body = self.transported(self.accumulators[name])
        if isinstance(body, Read):
            return self.keep(name)
        same = [
            s.name for s in self.streamed.cascade.steps if s.body == body and s.reduce is None and s.where is None and s.axes == step.axes
        ]
        if same:
            return self.keep(next((other for other in same if other in self.streamed.cascade.outputs), same[0]))
        if name not in self.stored:
            stored = self.names.fresh(f"{name}_end")
            self.saved[stored] = Einsum(stored, step.axes, body, loc=step.loc)
            self.stored[name] = build.read(stored, step.axes)
        return self.stored[name]

    def transported(self, item: Accumulator) -> Expr:
        """The sum rescaled from the running value of every gauge to the final one: w is divided by norm, y reduced by log(norm)."""
        step = self.by_name[item.name]
        result: Expr = build.read(item.name, step.axes)
        for gauge, power in item.offset_power:
            norm = self.gauges[gauge].norm
            log = build.log(norm)
            # A fully masked row has sums of 0, which log(0) would turn into NaN.
            drop = log if log == build.ZERO else build.apply("where", build.apply("eq", norm, build.ZERO), build.ZERO, log)
            result = build.ZERO
            for i, sum_ in enumerate(self.chain(item)):
                result = build.add(result, _times(sum_, float(comb(power, i) * (-1) ** i), drop, i))
        for gauge, count in item.weight_power:
            for _ in range(count):
                result = build.safe_div(result, self.gauges[gauge].norm)
        return result

    def chain(self, item: Accumulator) -> list[Expr]:
        """The sum, then its lower sums: with one factor y less, two less, and so on."""
        found: list[Expr] = []
        name: str | None = item.name
        while name is not None:
            found.append(build.read(name, self.by_name[name].axes))
            name = self.accumulators[name].lower
        return found

    def recover(self) -> dict[str, Expr]:
        """Sums recovered from outputs: o = acc / l + rest is solved for acc, one sum per output."""
        self.recovered: dict[str, Expr] = {}
        for output in self.streamed.cascade.outputs:
            step = self.by_name.get(output)
            if step is None or output in self.ends or output not in self.rows:
                continue
            solved = self.solve(step)
            if solved is not None:
                self.recovered[solved[0]] = solved[1]
        return self.recovered

    def solve(self, step: Einsum) -> tuple[str, Expr] | None:
        if step.name in self.accumulators:
            # An output that is a sum itself has its final value only if it follows no gauge.
            return (step.name, self.keep(step.name)) if isinstance(self.transported(self.accumulators[step.name]), Read) else None
        if step.reduce is not None or step.where is not None:
            return None
        terms = signed_terms(self.unnormed(step.body))
        for i, (sign, term) in enumerate(terms):
            name, factor = _quotient(term)
            others = [other for j, other in enumerate(terms) if j != i]
            if name not in self.accumulators or name in self.recovered or self.by_name[name].axes != step.axes:
                continue
            if any(name in names_read(other) for _, other in others) or name in names_read(factor):
                continue
            value = build.sub(self.keep(step.name), self.value(signed_sum(others)))
            value = build.mul(value, self.value(factor))
            return name, value if sign > 0 else build.neg(value)
        return None

    def unnormed(self, expr: Expr) -> Expr:
        """The expression with gauges and norms at their end, sums still by name."""
        rows: dict[str, Expr] = {}

        def rule(node: Expr) -> Expr | None:
            match node:
                case Read(tensor=tensor) if tensor in rows:
                    return rows[tensor]
                case Read(tensor=tensor) if tensor in self.norms:
                    return build.ONE
                case Read(tensor=tensor) if tensor in self.rows and tensor not in self.accumulators and tensor not in self.ends:
                    step = self.by_name[tensor]
                    return rows.setdefault(tensor, rewrite(step.body, rule)) if self.is_again(step) else None
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


def _times(expr: Expr, coefficient: float, factor: Expr, power: int) -> Expr:
    result: Expr = build.const(coefficient)
    for _ in range(power):
        result = build.mul(result, factor)
    return build.mul(result, expr)


def _quotient(term: Expr) -> tuple[str, Expr]:
    """`acc`, `acc / factor` or `safe_div(acc, factor)`; ('', 1) for anything else."""
    match term:
        case Read(tensor=name, at=at) if all(isinstance(a, Index) for a in at):
            return name, build.ONE
        case Apply(op="div" | "safe_div", args=(Read(tensor=name), factor)):
            return name, factor
        case _:
            return "", build.ONE

"""CanonicalForm to StreamingForm: every reduction over the streamed axis becomes sums accumulated in one pass.

A reduction of `F(streamed, running, known)` separates into `sum_j G_j * H_j` (`analysis.separation`). Sums of terms with an exponential
share a *gauge*: a row value `m_i` subtracted in `w = exp(x - m_i)`. The outputs do not depend on it, so a kernel may use any value: the
forward the running maximum, the backward the final logsumexp.

    lse[m] = logsumexp[n] x[m,n]                 w[m,n]   = exp(x[m,n] - m_i[m])
    p[m,n] = exp(x[m,n] - lse[m])         ->     l_i[m]   = sum[n] w[m,n]
    o[m,e] = sum[n] p[m,n] * v[n,e]              lse[m]   = m_i[m] + log(l_i[m])
                                                 acc[m,e] = sum[n] w[m,n] * v[n,e]
                                                 o[m,e]   = safe_div(acc[m,e], l_i[m])

A row value that shifts with its gauge is written as `m_i + log(norm)`, so `exp(m_i - lse)` is `1 / norm` and never computed.

StreamingForm: a step is *known*, as the user wrote it; the *weight* or *offset* of a gauge; a *sum* over the streamed axis whose body reads
no finished value; or a *row* value of finished sums. `check_streaming` compares the result with the input.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from attngen.analysis.predicates import mask_of
from attngen.analysis.separation import Symbols, Term, separate
from attngen.errors import NotStreamable
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input, arguments_first
from attngen.ir.expr import Apply, Const, Expr, Extent, Read
from attngen.ir.names import spell
from attngen.ir.traverse import children, free_axes, inline, step_reads, walk
from attngen.transform.streaming.carried_axes import broadcast_over_grid, inline_grid_steps, split_maxima
from attngen.transform.streaming.check_streaming import check_streaming
from attngen.transform.streaming.exponentials import Rewriter
from attngen.transform.streaming.gauges import Accumulator, Gauge, Streamed, Sums

_FINITE = frozenset(
    (
        *("add", "sub", "mul", "neg", "min", "max", "abs", "tanh", "sigmoid", "softplus", "relu", "gelu", "gelu_tanh", "erf", "sin", "cos"),
        *("clamp", "clamp_min", "clamp_max", "hardtanh", "tanh_small", "atan", "rint", "floor", "ceil"),
    )
)
"""Operations that are finite for finite arguments."""

__all__ = ["Accumulator", "Gauge", "Streamed", "streaming"]


def streaming(cascade: Cascade, resident: str, streamed: str, grid: tuple[str, ...] = ()) -> Streamed:
    """Takes CanonicalForm, gives StreamingForm.

    Args:
        cascade: the forward.
        resident: the parallel axis, that of the rows.
        streamed: the loop axis.
        grid: the grid axes, if the steps along both sequence axes do not have them.

    Raises:
        NotStreamable: a reduction does not separate, or needs another pass; names the factor and the user's line.
        MaxNotAShift: the outputs depend on a maximum over the streamed axis.
    """
    cascade, maxima = split_maxima(cascade, streamed)
    cascade = broadcast_over_grid(inline_grid_steps(cascade, {resident, streamed}), resident, streamed, grid)
    builder = _Builder(cascade, resident, streamed, maxima)
    for step in cascade.steps:
        builder.take(step)
    found = builder.finish()
    check_streaming(cascade, found)
    return found


class _Builder:
    def __init__(self, cascade: Cascade, resident: str, streamed: str, maxima: frozenset[str]) -> None:
        self.cascade = cascade
        self.maxima = maxima
        self.resident = resident
        self.axis = streamed
        self.sums = Sums(cascade, streamed)
        self.bodies: dict[str, Expr] = {}
        self.ranks: list[tuple[str, int]] = []

    def take(self, step: Einsum) -> None:
        is_running = any(name in self.sums.running for name in step_reads(step))
        self.check(step, is_running)
        if self.axis in step.over:
            self.reduce(step, is_running)
            self.sums.running.add(step.name)
        elif not is_running:
            self.sums.add(step)
        else:
            self.sums.running.add(step.name)
            if self.axis in step.axes:
                self.bodies[step.name] = step.body
            else:
                self.row(step)

    def check(self, step: Einsum, is_running: bool) -> None:
        """Refuse steps that one pass over the axis cannot compute."""
        if self.resident in step.over:
            raise NotStreamable(
                f"{step.called} reduces over {self.resident}, the parallel axis, while each row loops over {self.axis}",
                loc=step.loc,
                remedy="Compute the column statistics in a call of its own, with the roles of the two axes exchanged.",
            )
        if not is_running:
            return
        remedy = f"A second pass over {self.axis} would be needed; compute the inner reduction in a call of its own."
        if self.axis in step.axes and (step.reduce is not None or step.name in self.cascade.outputs):
            kind = "is an output" if step.reduce is None else "is a reduction"
            raise NotStreamable(
                f"{step.called} {kind} along {self.axis} that depends on reductions over {self.axis}", loc=step.loc, remedy=remedy
            )
        if self.axis in (*step.axes, *step.over) and self.sums.reads_running(step.where):
            raise NotStreamable(f"the mask of {step.called} depends on reductions over {self.axis}", loc=step.loc, remedy=remedy)
        if any(self.sums.reads_running(at) for read in walk(step.body) if isinstance(read, Read) for at in children(read)):
            raise NotStreamable(
                f"{step.called} gathers at a position that depends on reductions over {self.axis}", loc=step.loc, remedy=remedy
            )

    def reduce(self, step: Einsum, is_running: bool) -> None:
        if step.over != (self.axis,):
            raise NotStreamable(
                f"{step.called} reduces over {', '.join(step.over)} at once", loc=step.loc, remedy="Reduce over one axis at a time."
            )
        if step.reduce == "sum":
            self.sum(step)
            return
        if is_running:
            raise NotStreamable(
                f"{step.called} reduces values that depend on another reduction over {self.axis}",
                loc=step.loc,
                remedy="A second pass over the keys would be needed; compute the inner reduction in a call of its own.",
            )
        sums = self.sums
        if step.name in self.maxima:
            sums.add(step)
            sums.accumulators[step.name] = Accumulator(step.name)
            self.ranks.append((step.name, 1))
            return
        gauge = sums.gauge(step.body, step)
        norm = sums.read(sums.total(gauge)) if step.reduce == "logsumexp" else build.ONE
        body = build.add(build.read(gauge.name, gauge.axes), build.log(norm))
        sums.add(replace(step, body=body, reduce=None, over=(), where=None))
        sums.shift(step.name, gauge, norm)

    def sum(self, step: Einsum) -> None:
        body = inline(step.body, self.bodies)
        if not self.sums.reads_running(body) and (body, step.axes, step.where) not in self.sums.sums:
            self.sums.accumulate(step.name, body, step)
            self.ranks.append((step.name, 1))
            return
        rewriter = Rewriter(self.sums, step)
        rewritten = rewriter.rewrite(body)
        text = partial(spell, steps=self.cascade.steps)
        symbols = Symbols(self.sums.is_running, self.sums.is_streamed, self.sums.follows, rewriter.spelled, text)
        terms = separate(rewritten, symbols, step.loc)
        self.ranks.append((step.name, len(terms)))
        result = build.total([self.finished(term, step) for term in terms])
        if not all(self.is_finite(term.running, step) for term in terms):
            result = build.apply("where", build.apply("eq", self.count(step), build.ZERO), build.ZERO, result)
        self.sums.add(replace(step, body=result, reduce=None, over=(), where=None))
        self.sums.rows[step.name] = result

    def finished(self, term: Term, step: Einsum) -> Expr:
        """`H * S` for one term, divisions by a norm outermost."""
        needed = {*free_axes(term.streamed), *free_axes(step.where), *self.rows()}
        axes = tuple(axis for axis in step.axes if axis in needed or axis not in free_axes(term.running))
        weights = {gauge.weight for gauge in self.sums.gauges.values()}
        is_norm = isinstance(term.streamed, Read) and term.streamed.tensor in weights
        base = "l_i" if is_norm else "acc" if set(axes) - self.rows() else "t_i"
        name = self.sums.sum(base, term.streamed, replace(step, axes=axes))
        numerator, divisors = _divisors(term.running)
        result = build.mul(self.sums.read(name), numerator)
        for op, divisor in divisors:
            result = build.apply("safe_div" if self.is_norm(divisor, step) else op, result, divisor)
        return result

    # ---- fully masked rows: the sum is 0 there, whatever its factors

    def is_norm(self, divisor: Expr, step: Einsum) -> bool:
        """Whether a divisor is the sum of the weights under the same mask: 0 in fully masked rows only."""
        while isinstance(divisor, Read) and divisor.tensor in self.sums.rows:
            divisor = self.sums.rows[divisor.tensor]
        totals = {gauge.weight for gauge in self.sums.gauges.values() if mask_of(gauge.where) == mask_of(step.where)}
        source = self.sums.by_name.get(divisor.tensor) if isinstance(divisor, Read) else None
        return source is not None and source.reduce == "sum" and isinstance(source.body, Read) and source.body.tensor in totals

    def is_finite(self, expr: Expr, step: Einsum) -> bool:
        """Whether a factor of a sum is finite in fully masked rows too."""
        if not self.sums.reads_running(expr):
            return True
        match expr:
            case Read(tensor=name):
                return name in self.sums.accumulators
            case Apply(op="div", args=(a, b)):
                return self.is_finite(a, step) and self.is_norm(b, step)
            case Apply(op="safe_div", args=(a, _)):
                return self.is_finite(a, step)
            case Apply(op="where", args=(Apply(op="eq"), Const(value=0.0), _)):
                # The guard that `exponentials` puts around values that are infinite in such rows.
                return True
            case Apply(op=op, args=args) if op in _FINITE:
                return all(self.is_finite(arg, step) for arg in args)
            case _:
                return False

    def count(self, step: Einsum) -> Expr:
        """The number of unmasked elements of a sum."""
        if step.where is None:
            return build.apply("to_float", Extent(self.axis))
        axes = tuple(axis for axis in step.axes if axis in self.rows() | set(free_axes(step.where)))
        return self.sums.read(self.sums.sum("count", build.ONE, replace(step, axes=axes)))

    def row(self, step: Einsum) -> None:
        """Take a row value of the epilogue; a logaddexp with a row statistic widens its norm."""
        shifts = self.sums.shifts
        match step.body:
            case Apply(op="logaddexp", args=(Read(tensor=a), other)) if a in shifts and self.widens(step, other):
                self.sums.widen(step, a, other)
            case Apply(op="logaddexp", args=(other, Read(tensor=a))) if a in shifts and self.widens(step, other):
                self.sums.widen(step, a, other)
            case _:
                self.sums.add(step)
                if step.reduce is None and step.where is None:
                    self.sums.rows[step.name] = step.body

    def widens(self, step: Einsum, other: Expr) -> bool:
        return step.where is None and not self.sums.reads_running(other) and not self.sums.is_streamed(other)

    def rows(self) -> set[str]:
        """All axes but features: those of steps along both sequence axes."""
        tiles = [step.axes for step in self.cascade.steps if {self.resident, self.axis} <= set(step.axes)]
        return {self.resident, *(axis for axes in tiles for axis in axes)}

    def finish(self) -> Streamed:
        gauges = self.sums.closed()
        inputs = tuple(Input(gauge.name, gauge.axes, len(gauge.axes)) for gauge in self.sums.gauges.values())
        cascade = Cascade(arguments_first((*self.cascade.inputs, *inputs)), tuple(self.sums.steps), self.cascade.outputs)
        return Streamed(cascade, self.resident, self.axis, gauges, tuple(self.sums.accumulators.values()), tuple(self.ranks))


def _divisors(expr: Expr) -> tuple[Expr, tuple[tuple[str, Expr], ...]]:
    """Split divisions off a product, to be applied last."""
    if isinstance(expr, Apply) and expr.op in ("div", "safe_div"):
        numerator, inner = _divisors(expr.args[0])
        return numerator, (*inner, (expr.op, expr.args[1]))
    if isinstance(expr, Apply) and expr.op == "neg":
        numerator, inner = _divisors(expr.args[0])
        return build.neg(numerator), inner
    return expr, ()

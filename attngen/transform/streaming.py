"""CanonicalForm to StreamingForm: every reduction over the streamed axis becomes sums that one pass can accumulate.

A reduction of `F(streamed, running, known)` separates into `sum_j G_j * H_j` (`analysis.separation`). Sums whose terms carry an
exponential share a *gauge*: a row value `m_i` subtracted inside `w = exp(x - m_i)`. The outputs do not depend on it, so a kernel may
use whatever it has: the running maximum on the way forward, the finished logsumexp on the way back.

    lse[m] = logsumexp[n] x[m,n]                 w[m,n]   = exp(x[m,n] - m_i[m])
    p[m,n] = exp(x[m,n] - lse[m])         ->     l_i[m]   = sum[n] w[m,n]
    o[m,e] = sum[n] p[m,n] * v[n,e]              lse[m]   = m_i[m] + log(l_i[m])
                                                 acc[m,e] = sum[n] w[m,n] * v[n,e]
                                                 o[m,e]   = safe_div(acc[m,e], l_i[m])

Every row value that moves with its gauge is written as `m_i + log(norm)`, so `exp(m_i - lse)` is never computed: it is `1 / norm`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attngen.analysis.separation import Term, separate
from attngen.errors import MaxNotAShift, NotStreamable
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Const, Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, inline, names_read, step_reads


@dataclass(frozen=True, slots=True)
class Gauge:
    """A shift that exponentials share.

    Attributes:
        name: the row input `m_i`.
        exponent: the step x inside the exponential.
        weight: the step `w = exp(x - m_i)`.
        offset: the step `y = x - m_i`, if some sum uses it.
        value: the row step Z at which the backward evaluates the gauge (there `norm` is 1).
        norm: Z = m_i + log(norm).
        floor: row values that the running maximum must dominate (a sink).
    """

    name: str
    exponent: str
    weight: str
    offset: str | None
    value: str
    norm: Expr
    floor: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Accumulator:
    """How a sum follows its gauges when they move: `weight_power` counts w, `offset_power` counts y; `lower` is the sum with one y less."""

    name: str
    weight_power: tuple[tuple[str, int], ...] = ()
    offset_power: tuple[tuple[str, int], ...] = ()
    lower: str | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """A cascade in StreamingForm with its gauges; `ranks` gives the number of sums behind each reduction."""

    cascade: Cascade
    resident: str
    streamed: str
    gauges: tuple[Gauge, ...]
    accumulators: tuple[Accumulator, ...]
    ranks: tuple[tuple[str, int], ...]


def streaming(cascade: Cascade, resident: str, streamed: str) -> Streamed:
    """Takes CanonicalForm, gives StreamingForm.

    Raises:
        NotStreamable: a reduction does not separate; names the factor and the user's line.
    """
    builder = _Builder(cascade, resident, streamed)
    for step in cascade.steps:
        builder.take(step)
    return builder.finish()


@dataclass
class _OpenGauge:
    name: str
    exponent: str
    weight: str
    axes: tuple[str, ...]
    offset: str | None = None
    total: str | None = None
    value: str | None = None
    norm: Expr | None = None
    used: bool = False
    floor: list[Expr] = field(default_factory=lambda: [])


class _Builder:
    def __init__(self, cascade: Cascade, resident: str, streamed: str) -> None:
        self.cascade = cascade
        self.resident = resident
        self.axis = streamed
        self.names = Names(cascade)
        self.steps: list[Einsum] = []
        self.running: set[str] = set()
        self.bodies: dict[str, Expr] = {}
        self.gauges: dict[str, _OpenGauge] = {}
        self.shifts: dict[str, tuple[_OpenGauge, Expr]] = {}
        self.sums: dict[tuple[Expr, tuple[str, ...], Expr | None], str] = {}
        self.accumulators: dict[str, Accumulator] = {}
        self.ranks: list[tuple[str, int]] = []
        self.by_name = {step.name: step for step in cascade.steps}

    # ---- one step of the input

    def take(self, step: Einsum) -> None:
        runs = any(name in self.running for name in step_reads(step))
        if self.axis in step.over:
            self.reduce(step, runs)
            self.running.add(step.name)
        elif not runs:
            self.steps.append(step)
        else:
            self.running.add(step.name)
            if self.axis in step.axes:
                self.bodies[step.name] = step.body
            else:
                self.row(step)

    def reduce(self, step: Einsum, runs: bool) -> None:
        if step.over != (self.axis,):
            raise NotStreamable(
                f"{step.name} reduces over {', '.join(step.over)} at once", loc=step.loc, remedy="Reduce over one axis at a time."
            )
        if step.reduce == "sum":
            self.sum(step)
            return
        if runs:
            raise NotStreamable(
                f"{step.name} is a {step.reduce} over values that depend on another reduction over {self.axis}",
                loc=step.loc,
                remedy="A second pass over the keys would be needed; compute the inner reduction in a call of its own.",
            )
        gauge = self.gauge(step.body, step)
        shift: Expr = build.ONE
        if step.reduce == "logsumexp":
            shift = self.read(self.total(gauge, step))
            self.steps.append(replace(step, body=build.add(self.read(gauge.name), build.log(shift)), reduce=None, over=(), where=None))
        else:
            self.steps.append(replace(step, body=self.read(gauge.name), reduce=None, over=(), where=None))
        self.shifts[step.name] = (gauge, shift)
        if gauge.value is None:
            gauge.value, gauge.norm = step.name, shift

    def sum(self, step: Einsum) -> None:
        body = inline(step.body, self.bodies)
        if not any(name in self.running for name in names_read(body)):
            self.add_sum(step.name, body, step)
            self.ranks.append((step.name, 1))
            return
        terms = separate(self.prepare(body, step), self.is_running, self.is_streamed, step.loc)
        self.ranks.append((step.name, len(terms)))
        result: Expr = build.ZERO
        for term in terms:
            result = build.add(result, self.finished(term, step))
        self.steps.append(replace(step, body=result, reduce=None, over=(), where=None))

    def finished(self, term: Term, step: Einsum) -> Expr:
        """`H * S` for one term, with divisions by a norm outermost."""
        axes = tuple(axis for axis in step.axes if axis in free_axes(term.streamed) or axis not in free_axes(term.running))
        base = "acc" if self.features(axes) else "t_i"
        name = self.add_sum(self.names_for(term.streamed, axes, step, base), term.streamed, replace(step, axes=axes))
        numerator, divisors = _divisors(term.running)
        result = build.mul(self.read(name), numerator)
        for op, divisor in divisors:
            result = build.apply(op, result, divisor)
        return result

    def row(self, step: Einsum) -> None:
        """A row value after the pass: keep it, and find out how it moves with a gauge."""
        match step.body:
            case Apply(op="logaddexp", args=(Read(tensor=a), other)) if a in self.shifts and not self.moves(other):
                self.extend_norm(step, a, other)
                return
            case Apply(op="logaddexp", args=(other, Read(tensor=a))) if a in self.shifts and not self.moves(other):
                self.extend_norm(step, a, other)
                return
            case _:
                self.steps.append(step)

    def extend_norm(self, step: Einsum, name: str, other: Expr) -> None:
        """`logaddexp(m_i + log(norm), c)` is `m_i + log(norm + exp(c - m_i))`."""
        gauge, norm = self.shifts[name]
        wider = self.names.fresh("norm")
        self.steps.append(Einsum(wider, step.axes, build.add(norm, build.exp(build.sub(other, self.read(gauge.name)))), loc=step.loc))
        self.running.add(wider)
        value = self.read(wider)
        self.steps.append(replace(step, body=build.add(self.read(gauge.name), build.log(value))))
        self.shifts[step.name] = (gauge, value)
        gauge.floor.append(other)

    # ---- gauges and sums

    def gauge(self, exponent: Expr, step: Einsum) -> _OpenGauge:
        """The gauge of an exponent; the exponent becomes a step of its own if it is not one yet."""
        axes = (*step.axes, self.axis) if step.reduce else step.axes
        if not (isinstance(exponent, Read) and exponent.tensor in self.by_name):
            name = self.names.fresh("x")
            named = Einsum(name, axes, exponent, where=step.where, loc=step.loc)
            self.steps.append(named)
            self.by_name[name] = named
            exponent = self.read(name)
        if exponent.tensor not in self.gauges:
            source = self.by_name[exponent.tensor]
            rows = tuple(axis for axis in source.axes if axis != self.axis)
            gauge = _OpenGauge(self.names.fresh("m_i"), source.name, self.names.fresh("w"), rows)
            self.gauges[exponent.tensor] = gauge
            self.running.add(gauge.name)
            body = build.exp(build.sub(exponent, build.read(gauge.name, rows)))
            self.steps.append(Einsum(gauge.weight, source.axes, body, where=source.where, loc=source.loc))
        return self.gauges[exponent.tensor]

    def total(self, gauge: _OpenGauge, step: Einsum) -> str:
        if gauge.total is None:
            weight = self.by_weight(gauge)
            name = self.names_for(self.read(gauge.weight), gauge.axes, step, "l_i")
            gauge.total = self.add_sum(name, self.read(gauge.weight), replace(step, axes=gauge.axes, where=weight.where))
        return gauge.total

    def by_weight(self, gauge: _OpenGauge) -> Einsum:
        return next(step for step in self.steps if step.name == gauge.weight)

    def offset(self, gauge: _OpenGauge) -> str:
        """The step `y = x - m_i`."""
        if gauge.offset is None:
            weight = self.by_weight(gauge)
            gauge.offset = self.names.fresh("y")
            body = build.sub(self.read(gauge.exponent), build.read(gauge.name, gauge.axes))
            self.steps.append(Einsum(gauge.offset, weight.axes, body, where=weight.where, loc=weight.loc))
        return gauge.offset

    def names_for(self, body: Expr, axes: tuple[str, ...], step: Einsum, base: str) -> str:
        return self.sums.get((body, axes, step.where)) or self.names.fresh(base)

    def add_sum(self, name: str, body: Expr, step: Einsum) -> str:
        """An accumulator, shared if the same sum exists, with the sums it needs to follow its gauges."""
        key = (body, step.axes, step.where)
        if key in self.sums and self.sums[key] == name:
            return name
        self.sums.setdefault(key, name)
        factors = _factors(body)
        weights = {g.weight: g.name for g in self.gauges.values()}
        offsets = {g.offset: g.name for g in self.gauges.values() if g.offset}
        lower: str | None = None
        shifted = next((f for f in factors if isinstance(f, Read) and f.tensor in offsets), None)
        if shifted is not None:
            rest = list(factors)
            rest.remove(shifted)
            less = _product(rest)
            lower = self.add_sum(self.names_for(less, step.axes, step, "t_i"), less, step)
        self.steps.append(replace(step, name=name, body=body, reduce="sum", over=(self.axis,)))
        self.running.add(name)
        self.accumulators[name] = Accumulator(name, _powers(factors, weights), _powers(factors, offsets), lower)
        return name

    # ---- exposing weights inside a body

    def prepare(self, expr: Expr, step: Einsum) -> Expr:
        """Rewrite exponentials and differences of a streamed and a running value through a gauge, where one fits."""
        if not any(name in self.running for name in names_read(expr)):
            return expr
        match expr:
            case Apply(op="log", args=(Apply(op="exp", args=(inner,)),)):
                return self.prepare(inner, step)
            case Apply(op="exp", args=(inner,)):
                return self.exponential(inner, step)
            case Apply(op="add" | "sub"):
                return self.difference(expr, step)
            case Apply(op=op, args=args):
                return build.apply(op, *(self.prepare(arg, step) for arg in args))
            case _:
                return expr

    def exponential(self, exponent: Expr, step: Einsum) -> Expr:
        linear = _linear(exponent)
        running = {term: c for term, c in linear.items() if any(name in self.running for name in names_read(term))}
        streamed = {term: c for term, c in linear.items() if term not in running}
        if not any(self.is_streamed(term) for term in streamed) or any(self.is_streamed(term) for term in running):
            return build.exp(exponent)
        match = self.match_shift(streamed, running)
        if match is not None:
            gauge, norm, power = match
            result: Expr = build.ONE
            for _ in range(power):
                result = build.safe_div(build.mul(result, self.read(gauge.weight)), norm)
            return result
        space = tuple(axis for axis in (*step.axes, self.axis) if axis in free_axes(_sum(streamed)))
        gauge = self.gauge(_sum(streamed), Einsum(step.name, space, step.body, where=step.where, loc=step.loc))
        rest = build.add(build.read(gauge.name, gauge.axes), _sum(running))
        return build.mul(self.read(gauge.weight), build.exp(rest))

    def match_shift(self, streamed: dict[Expr, float], running: dict[Expr, float]) -> tuple[_OpenGauge, Expr, int] | None:
        """`k * x - k * Z` with Z a row value that moves with the gauge of x."""
        if len(streamed) != 1 or len(running) != 1:
            return None
        (x, k), (z, minus_k) = next(iter(streamed.items())), next(iter(running.items()))
        if not (isinstance(x, Read) and isinstance(z, Read) and z.tensor in self.shifts and k == -minus_k and k in (1.0, 2.0, 3.0, 4.0)):
            return None
        gauge, norm = self.shifts[z.tensor]
        if gauge.exponent != x.tensor:
            return None
        if not gauge.used:
            gauge.used, gauge.value, gauge.norm = True, z.tensor, norm
        return gauge, norm, int(k)

    def difference(self, expr: Expr, step: Einsum) -> Expr:
        """`k * (x - Z)` becomes `k * (y - log(norm))`, which loses no digits however large x is."""
        linear = _linear(expr)
        for term, coefficient in list(linear.items()):
            if not (isinstance(term, Read) and term.tensor in self.shifts):
                continue
            gauge, norm = self.shifts[term.tensor]
            x = self.read(gauge.exponent)
            if linear.get(x) == -coefficient:
                del linear[x], linear[term]
                linear[self.read(self.offset(gauge))] = -coefficient
                linear[build.log(norm)] = coefficient
        return _sum({self.prepare_inner(term, step): c for term, c in linear.items()})

    def prepare_inner(self, term: Expr, step: Einsum) -> Expr:
        return term if isinstance(term, Apply) and term.op in ("add", "sub") else self.prepare(term, step)

    # ---- questions

    def read(self, name: str) -> Read:
        step = next((s for s in self.steps if s.name == name), None) or self.by_name.get(name)
        if step is not None:
            return build.read(name, step.axes)
        gauge = next(g for g in self.gauges.values() if g.name == name)
        return build.read(name, gauge.axes)

    def is_running(self, name: str) -> bool:
        weights = {g.weight for g in self.gauges.values()} | {g.offset for g in self.gauges.values()}
        return name in self.running and name not in weights

    def is_streamed(self, expr: Expr) -> bool:
        return self.axis in free_axes(expr)

    def moves(self, expr: Expr) -> bool:
        return any(name in self.running for name in names_read(expr)) or self.is_streamed(expr)

    def features(self, axes: tuple[str, ...]) -> bool:
        rows = {axis for gauge in self.gauges.values() for axis in gauge.axes}
        return any(axis not in rows for axis in axes)

    # ---- the result

    def finish(self) -> Streamed:
        inputs = tuple(Input(gauge.name, gauge.axes, len(gauge.axes)) for gauge in self.gauges.values())
        cascade = Cascade((*self.cascade.inputs, *inputs), tuple(self.steps), self.cascade.outputs)
        gauges = tuple(self.close(gauge) for gauge in self.gauges.values())
        return Streamed(cascade, self.resident, self.axis, gauges, tuple(self.accumulators.values()), tuple(self.ranks))

    def close(self, gauge: _OpenGauge) -> Gauge:
        if gauge.value is None or gauge.norm is None:
            raise MaxNotAShift(f"the exponential of {gauge.exponent} has no row value to be measured against")
        return Gauge(gauge.name, gauge.exponent, gauge.weight, gauge.offset, gauge.value, gauge.norm, tuple(gauge.floor))


def _factors(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Apply) and expr.op == "mul":
        return (*_factors(expr.args[0]), *_factors(expr.args[1]))
    return (expr,)


def _product(factors: list[Expr]) -> Expr:
    result: Expr = build.ONE
    for factor in factors:
        result = build.mul(result, factor)
    return result


def _powers(factors: tuple[Expr, ...], names: dict[str, str]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for factor in factors:
        if isinstance(factor, Read) and factor.tensor in names:
            gauge = names[factor.tensor]
            counts[gauge] = counts.get(gauge, 0) + 1
    return tuple(counts.items())


def _divisors(expr: Expr) -> tuple[Expr, tuple[tuple[str, Expr], ...]]:
    """Peel divisions off a product, so that they can be applied last."""
    if isinstance(expr, Apply) and expr.op in ("div", "safe_div"):
        numerator, inner = _divisors(expr.args[0])
        return numerator, (*inner, (expr.op, expr.args[1]))
    if isinstance(expr, Apply) and expr.op == "neg":
        numerator, inner = _divisors(expr.args[0])
        return build.neg(numerator), inner
    return expr, ()


def _linear(expr: Expr, coefficient: float = 1.0) -> dict[Expr, float]:
    """Additive terms with constant coefficients."""
    result: dict[Expr, float] = {}

    def visit(node: Expr, scale: float) -> None:
        match node:
            case Apply(op="add", args=(a, b)):
                visit(a, scale)
                visit(b, scale)
            case Apply(op="sub", args=(a, b)):
                visit(a, scale)
                visit(b, -scale)
            case Apply(op="neg", args=(a,)):
                visit(a, -scale)
            case Apply(op="mul", args=(Const(value=value, kind="int" | "float"), a)):
                visit(a, scale * value)
            case Apply(op="mul", args=(a, Const(value=value, kind="int" | "float"))):
                visit(a, scale * value)
            case _:
                result[node] = result.get(node, 0.0) + scale

    visit(expr, coefficient)
    return {term: c for term, c in result.items() if c != 0}


def _sum(linear: dict[Expr, float]) -> Expr:
    result: Expr = build.ZERO
    for term, coefficient in linear.items():
        result = build.add(result, build.mul(term, build.const(coefficient)))
    return result

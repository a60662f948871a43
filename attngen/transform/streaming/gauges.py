"""The one-pass cascade under construction: gauges, their weights, and the sums that rescale with them.

A gauge is a row value `m_i` shared by the exponentials of one exponent x under one mask: `w = exp(x - m_i)`, and `y = x - m_i` if a sum
needs the shifted exponent itself. A row value that shifts with its gauge is written as `Z = m_i + log(norm)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attngen.errors import MaxNotAShift, NotStreamable
from attngen.ir import build
from attngen.ir.algebra import factors, product
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, names_read


@dataclass(frozen=True, slots=True)
class Gauge:
    """A shift shared by exponentials.

    Attributes:
        name: the row input `m_i`.
        exponent: the step x in the exponential.
        weight: the step `w = exp(x - m_i)`.
        offset: the step `y = x - m_i`, if some sum uses it.
        value: the row step Z at which the backward evaluates the gauge (where `norm` is 1).
        norm: Z = m_i + log(norm).
        floor: lower bounds of the running maximum (a sink).
        scale: a positive scale that was folded out of x: the exponential is of `x * scale`.
        shift: a row value that was separated from x and is added to `x * scale`.
    """

    name: str
    exponent: str
    weight: str
    offset: str | None
    value: str
    norm: Expr
    floor: tuple[Expr, ...]
    scale: Expr = build.ONE
    shift: Expr = build.ZERO


@dataclass(frozen=True, slots=True)
class Accumulator:
    """How a sum rescales with its gauges: `weight_power` counts its factors w, `offset_power` y; `lower` is the sum with one y less."""

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


@dataclass
class OpenGauge:
    """A gauge under construction. `spelled` is the exponent as bodies write it, `where` the guard of its weight."""

    name: str
    spelled: Expr
    exponent: str
    weight: str
    axes: tuple[str, ...]
    where: Expr | None
    offset: str | None = None
    value: str | None = None
    norm: Expr = build.ONE
    used: bool = False
    floor: list[Expr] = field(default_factory=list[Expr])

    def covers(self, where: Expr | None) -> bool:
        """Whether the weight exists wherever `where` holds."""
        return set(build.conjuncts(self.where)) <= set(build.conjuncts(where))


class Sums:
    """The steps so far, and facts about them.

    Attributes:
        running: names that depend on a reduction over the streamed axis, or on a gauge.
        shifts: row values Z with their gauge and norm.
        rows: bodies of row values, by name.
    """

    def __init__(self, cascade: Cascade, streamed: str) -> None:
        self.axis = streamed
        self.names = Names(cascade)
        self.steps: list[Einsum] = []
        self.by_name: dict[str, Einsum] = {}
        self.running: set[str] = set()
        self.gauges: dict[tuple[Expr, frozenset[Expr]], OpenGauge] = {}
        self.shifts: dict[str, tuple[OpenGauge, Expr]] = {}
        self.rows: dict[str, Expr] = {}
        self.sums: dict[tuple[Expr, tuple[str, ...], Expr | None], str] = {}
        self.accumulators: dict[str, Accumulator] = {}

    def add(self, step: Einsum) -> None:
        """Append a step."""
        self.steps.append(step)
        self.by_name[step.name] = step

    def read(self, name: str) -> Read:
        """A read of a step at its own axes."""
        return build.read(name, self.by_name[name].axes)

    def reads_running(self, expr: Expr | None) -> bool:
        return any(name in self.running for name in names_read(expr))

    def is_streamed(self, expr: Expr) -> bool:
        return self.axis in free_axes(expr)

    def is_running(self, name: str) -> bool:
        """Whether a name is available only after the pass; weights and offsets are not."""
        return name in self.running and not self.follows(name)

    def follows(self, name: str) -> bool:
        """Whether a name is the weight or the offset of a gauge."""
        return any(name in (gauge.weight, gauge.offset) for gauge in self.gauges.values())

    # ---- gauges

    def gauge(self, exponent: Expr, step: Einsum) -> OpenGauge:
        """The gauge of an exponent under the mask of a step; appends a step for the exponent if there is none."""
        key = (exponent, frozenset(build.conjuncts(step.where)))
        if key not in self.gauges:
            self.gauges[key] = self.open(exponent, self.exponent(exponent, step), step.where)
        return self.gauges[key]

    def exponent(self, expr: Expr, step: Einsum) -> Einsum:
        """The step of an exponent, with all axes of its mask and the streamed one."""
        needed = {self.axis, *free_axes(step.where)}
        source = self.by_name.get(expr.tensor) if isinstance(expr, Read) else None
        if source is not None and expr == self.read(source.name) and needed <= set(source.axes):
            return source
        wanted = needed | set(free_axes(expr))
        axes = tuple(axis for axis in (*step.axes, self.axis) if axis in wanted)
        named = Einsum(self.names.fresh("x"), axes, expr, where=step.where, loc=step.loc)
        self.add(named)
        return named

    def open(self, spelled: Expr, source: Einsum, where: Expr | None) -> OpenGauge:
        rows = tuple(axis for axis in source.axes if axis != self.axis)
        gauge = OpenGauge(self.names.fresh("m_i"), spelled, source.name, self.names.fresh("w"), rows, where)
        self.running |= {gauge.name, gauge.weight}
        body = build.exp(build.sub(self.read(source.name), build.read(gauge.name, rows)))
        self.add(Einsum(gauge.weight, source.axes, body, where=where, loc=source.loc))
        return gauge

    def shift_of(self, gauge: OpenGauge) -> str:
        """A row value that shifts with the gauge; appends the logsumexp if there is none."""
        if gauge.value is not None:
            return gauge.value
        norm = self.read(self.total(gauge))
        name = self.names.fresh("lse")
        body = build.add(build.read(gauge.name, gauge.axes), build.log(norm))
        self.add(Einsum(name, gauge.axes, body, loc=self.by_name[gauge.weight].loc))
        self.shift(name, gauge, norm)
        return name

    def shift(self, name: str, gauge: OpenGauge, norm: Expr) -> None:
        """Record that the row value `name` is `m_i + log(norm)`."""
        self.running.add(name)
        self.shifts[name] = (gauge, norm)
        if gauge.value is None:
            gauge.value, gauge.norm = name, norm

    def widen(self, step: Einsum, name: str, other: Expr) -> None:
        """Append `logaddexp(m_i + log(norm), c)` as `m_i + log(norm + exp(c - m_i))`."""
        gauge, norm = self.shifts[name]
        wider = self.names.fresh("norm")
        row = build.read(gauge.name, gauge.axes)
        self.add(Einsum(wider, step.axes, build.add(norm, build.exp(build.sub(other, row))), loc=step.loc))
        self.running.add(wider)
        self.add(replace(step, body=build.add(row, build.log(self.read(wider)))))
        self.shift(step.name, gauge, self.read(wider))
        gauge.floor.append(other)

    def offset(self, gauge: OpenGauge) -> Read:
        """The step `y = x - m_i`."""
        if gauge.offset is None:
            weight = self.by_name[gauge.weight]
            gauge.offset = self.names.fresh("y")
            self.running.add(gauge.offset)
            body = build.sub(self.read(gauge.exponent), build.read(gauge.name, gauge.axes))
            self.add(Einsum(gauge.offset, weight.axes, body, where=weight.where, loc=weight.loc))
        return self.read(gauge.offset)

    # ---- sums

    def total(self, gauge: OpenGauge) -> str:
        """The sum of the weights."""
        weight = self.by_name[gauge.weight]
        return self.sum("l_i", self.read(gauge.weight), replace(weight, axes=gauge.axes))

    def sum(self, base: str, body: Expr, step: Einsum) -> str:
        """An accumulator with the axes and the mask of `step`; an equal sum is reused."""
        name = self.sums.get((body, step.axes, step.where))
        if name is None:
            name = self.names.fresh(base)
            self.accumulate(name, body, step)
        return name

    def accumulate(self, name: str, body: Expr, step: Einsum) -> None:
        """Append an accumulator of that name, with the lower sums that its rescaling needs."""
        parts = factors(body)
        self.check_factors(parts, step)
        weights = {gauge.weight: gauge.name for gauge in self.gauges.values()}
        offsets = {gauge.offset: gauge.name for gauge in self.gauges.values() if gauge.offset is not None}
        lower: str | None = None
        shifted = next((part for part in parts if isinstance(part, Read) and part.tensor in offsets), None)
        if shifted is not None:
            rest = list(parts)
            rest.remove(shifted)
            lower = self.sum("t_i", product(rest), step)
        self.sums[body, step.axes, step.where] = name
        self.add(replace(step, name=name, body=body, reduce="sum", over=(self.axis,)))
        self.running.add(name)
        self.accumulators[name] = Accumulator(name, _powers(parts, weights), _powers(parts, offsets), lower)

    def check_factors(self, parts: tuple[Expr, ...], step: Einsum) -> None:
        """Refuse sums that cannot be rescaled: weights and offsets must be factors, and offsets belong to one gauge."""
        for part in parts:
            if any(self.follows(name) for name in names_read(part)) and not isinstance(part, Read):
                raise MaxNotAShift(
                    "a sum depends nonlinearly on values relative to a maximum",
                    loc=step.loc,
                    remedy="Use the maximum only inside of exp(x - max), normalised by a sum of the same exponentials.",
                )
        if len({part.tensor for part in parts if isinstance(part, Read) and self.is_offset(part.tensor)}) > 1:
            raise NotStreamable(
                f"{step.called} multiplies the logarithms of two different softmaxes, whose shifts interact",
                loc=step.loc,
                remedy="Compute one of the two normalisers in a call of its own and pass it in.",
            )

    def is_offset(self, name: str) -> bool:
        return any(name == gauge.offset for gauge in self.gauges.values())

    def closed(self) -> tuple[Gauge, ...]:
        """The finished gauges."""
        return tuple(
            Gauge(gauge.name, gauge.exponent, gauge.weight, gauge.offset, self.shift_of(gauge), gauge.norm, tuple(gauge.floor))
            for gauge in self.gauges.values()
        )


def _powers(parts: tuple[Expr, ...], names: dict[str, str]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for part in parts:
        if isinstance(part, Read) and part.tensor in names:
            gauge = names[part.tensor]
            counts[gauge] = counts.get(gauge, 0) + 1
    return tuple(counts.items())


def at_own_axes(read: Read, axes: tuple[str, ...]) -> bool:
    """Whether a tensor is read at its own axes."""
    return read.at == tuple(Index(axis) for axis in axes)

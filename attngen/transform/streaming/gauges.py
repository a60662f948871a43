"""The one-pass cascade while it grows: gauges, their weights, and the sums that follow them.

A gauge is a row value `m_i` that exponentials of one exponent x under one mask share: `w = exp(x - m_i)`, and `y = x - m_i` where a sum
needs the shifted exponent itself. A row value that moves with its gauge is kept as `Z = m_i + log(norm)`.
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
    """A shift that exponentials share.

    Attributes:
        name: the row input `m_i`.
        exponent: the step x inside the exponential.
        weight: the step `w = exp(x - m_i)`.
        offset: the step `y = x - m_i`, if some sum uses it.
        value: the row step Z at which the backward evaluates the gauge (there `norm` is 1).
        norm: Z = m_i + log(norm).
        floor: row values that the running maximum must dominate (a sink).
        scale: positive; the exponential is of `x * scale`, where it is not in x. shift: the same for what is added to it.
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


@dataclass
class OpenGauge:
    """A gauge that is still being built. `spelled` is the exponent as bodies read it, `where` says for which elements its weight exists."""

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
    """Steps in order, with what is known about them.

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

    def runs(self, expr: Expr | None) -> bool:
        return any(name in self.running for name in names_read(expr))

    def is_streamed(self, expr: Expr) -> bool:
        return self.axis in free_axes(expr)

    def is_running(self, name: str) -> bool:
        """Whether a name must wait for the end of the pass: weights and offsets need not."""
        return name in self.running and not self.follows(name)

    def follows(self, name: str) -> bool:
        """Whether a name is the weight or the offset of a gauge."""
        return any(name in (gauge.weight, gauge.offset) for gauge in self.gauges.values())

    # ---- gauges

    def gauge(self, exponent: Expr, step: Einsum) -> OpenGauge:
        """The gauge of an exponent under the mask of a step; the exponent becomes a step of its own if it is not one yet."""
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
        """A row value that moves with the gauge: the finished logsumexp, if there is none yet."""
        if gauge.value is not None:
            return gauge.value
        norm = self.read(self.total(gauge))
        name = self.names.fresh("lse")
        body = build.add(build.read(gauge.name, gauge.axes), build.log(norm))
        self.add(Einsum(name, gauge.axes, body, loc=self.by_name[gauge.weight].loc))
        self.shift(name, gauge, norm)
        return name

    def shift(self, name: str, gauge: OpenGauge, norm: Expr) -> None:
        """Note that the row value `name` is `m_i + log(norm)`."""
        self.running.add(name)
        self.shifts[name] = (gauge, norm)
        if gauge.value is None:
            gauge.value, gauge.norm = name, norm

    def widen(self, step: Einsum, name: str, other: Expr) -> None:
        """`logaddexp(m_i + log(norm), c)` is `m_i + log(norm + exp(c - m_i))`."""
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
        """An accumulator with the axes and the mask of `step`, shared if the same sum exists."""
        name = self.sums.get((body, step.axes, step.where))
        if name is None:
            name = self.names.fresh(base)
            self.accumulate(name, body, step)
        return name

    def accumulate(self, name: str, body: Expr, step: Einsum) -> None:
        """An accumulator of that name, with the sums it needs to follow its gauges."""
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
        """A weight or offset is a factor by itself, and offsets belong to one gauge: otherwise no law says how the sum moves."""
        for part in parts:
            if any(self.follows(name) for name in names_read(part)) and not isinstance(part, Read):
                raise MaxNotAShift(
                    "a sum depends in a nonlinear way on values measured from a maximum",
                    loc=step.loc,
                    remedy="Use the maximum only inside of exp(x - max), normalised by a sum of the same exponentials.",
                )
        if len({part.tensor for part in parts if isinstance(part, Read) and self.is_offset(part.tensor)}) > 1:
            raise NotStreamable(
                f"{step.called} multiplies the logarithms of two different softmaxes, whose shifts move one another",
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
    """Whether a read takes every element at its own position."""
    return read.at == tuple(Index(axis) for axis in axes)

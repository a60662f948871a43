"""Checks a StreamingForm against its CanonicalForm at random float64 points, in a few milliseconds.

Three laws: the outputs agree, they do not depend on the gauges, and every accumulator rescales with its gauges as recorded. Known steps
become random inputs, masks random truth values and gathers random arrays, so no shapes, extents or captured values are needed. The points
are the same in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np

from attngen.errors import InternalError, MaxNotAShift
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Expr, Kind, Read, kind_of
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, names_read, rewrite, step_reads
from attngen.transform.streaming.gauges import Streamed, at_own_axes

Array = Any
_TOLERANCE = 1e-7
_SEED = 20240607
_EXISTING = 0.7
_ROWS, _KEYS, _OTHERS = 3, 4, 2


def check_streaming(cascade: Cascade, streamed: Streamed) -> None:
    """Args:
        cascade: CanonicalForm.
        streamed: what `streaming` made of it.

    Raises:
        MaxNotAShift: the outputs depend on a maximum that the user wrote.
        InternalError: the two differ in any other way.
    """
    points = _Points(cascade, streamed)
    truth = interpret(points.skeleton(cascade), points.values)
    target = points.skeleton(streamed.cascade)
    first = {gauge.name: points.random(points.shape(streamed.cascade.axes(gauge.name))) for gauge in streamed.gauges}
    found = interpret(target, points.values | first)
    second = {name: value + points.random(value.shape) for name, value in first.items()}
    other = interpret(target, points.values | second)
    outputs = [name for name in cascade.outputs if name in found]
    for gauge in streamed.gauges:
        alone = interpret(target, points.values | first | {gauge.name: second[gauge.name]})
        if not all(_same(found[name], alone[name]) for name in outputs):
            _refuse(cascade, streamed, gauge.value)
    if not all(_same(truth[name], found[name]) for name in outputs):
        raise InternalError("the one-pass form computes other values than the cascade", remedy=f"The cascade:\n{cascade}")
    _check_transport(streamed, first, second, (found, other))


def _refuse(cascade: Cascade, streamed: Streamed, value: str) -> None:
    """Refuse the user's maximum behind a gauge; without one, it is an internal error."""
    taken = [step for step in cascade.steps if step.reduce == "max" and streamed.streamed in step.over]
    step = next((step for step in taken if step.name == value), taken[0] if taken else None)
    if step is None:
        raise InternalError(f"the outputs depend on the gauge behind {value}", remedy=f"The cascade:\n{cascade}")
    raise MaxNotAShift(
        f"the outputs change with the value of {step.called}, a maximum over {streamed.streamed}",
        loc=step.loc,
        remedy="A maximum over the keys may only be a shift: subtract it in exp(x - max) and divide by a sum of the same exponentials.",
    )


def _check_transport(
    streamed: Streamed, first: Mapping[str, Array], second: Mapping[str, Array], values: tuple[Mapping[str, Array], Mapping[str, Array]]
) -> None:
    """S' = prod exp(m_shift)^p * sum_i C(q, i) m_shift^i S_i, where m_shift is old minus new gauge and S_i has i offsets less."""
    lower = {item.name: item.lower for item in streamed.accumulators}
    before, after = values
    for item in streamed.accumulators:
        axes = streamed.cascade.axes(item.name)
        m_shift = {
            name: _along(first[name] - second[name], streamed.cascade.axes(name), axes) for name, _ in item.weight_power + item.offset_power
        }
        expected = before[item.name]
        for gauge, power in item.offset_power:
            name: str | None = item.name
            for i in range(1, power + 1):
                name = lower[name] if name is not None else None
                expected = expected + (np.nan if name is None else comb(power, i) * m_shift[gauge] ** i * before[name])
        for gauge, power in item.weight_power:
            expected = expected * np.exp(power * m_shift[gauge])
        if not _same(expected, after[item.name]):
            raise InternalError(f"the accumulator {item.name} does not follow its gauges", remedy=f"The cascade:\n{streamed.cascade}")


def _along(array: Array, own: tuple[str, ...], axes: tuple[str, ...]) -> Array:
    """An array over some of the axes, made to broadcast against all of them."""
    order = [axis for axis in axes if axis in own]
    array = np.transpose(array, [own.index(axis) for axis in order])
    lengths = dict(zip(order, array.shape, strict=True))
    return array.reshape([lengths.get(axis, 1) for axis in axes])


def _same(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    scale = np.max(np.abs(a[finite]), initial=1.0)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= _TOLERANCE * scale))


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A random input in place of a known expression."""

    name: str
    axes: tuple[str, ...]
    kind: Kind


class _Points:
    """Random values for everything that does not depend on the pass, the same for both forms."""

    def __init__(self, cascade: Cascade, streamed: Streamed) -> None:
        self.cascade = cascade
        self.streamed = streamed
        self.names = Names(streamed.cascade)
        self.random_bits = np.random.default_rng(_SEED)
        self.running = self.depends_on_reductions()
        self.known = {step.name: step for step in cascade.steps if step.name not in self.running}
        self.hidden: dict[Expr, _Hidden] = {}
        self.values: dict[str, Array] = {}
        steps = (*cascade.steps, *streamed.cascade.steps)
        self.axes = tuple(dict.fromkeys(axis for step in steps for axis in (*step.axes, *step.over)))
        self.extents = self.names.fresh("extents")
        self.values[self.extents] = np.zeros(self.shape(self.axes))
        for step in self.known.values():
            self.values[step.name] = self.draw(self.shape(step.axes), kind_of(step.body))
        for item in cascade.inputs:
            self.values[item.name] = self.draw(self.shape(item.axes or ()), item.kind)

    def depends_on_reductions(self) -> set[str]:
        gauges = {gauge.name for gauge in self.streamed.gauges}
        running: set[str] = set(gauges)
        for step in (*self.cascade.steps, *self.streamed.cascade.steps):
            if self.streamed.streamed in step.over or any(name in running for name in step_reads(step)):
                running.add(step.name)
        return running

    def shape(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        lengths = {self.streamed.resident: _ROWS, self.streamed.streamed: _KEYS}
        return tuple(lengths.get(axis, _OTHERS) for axis in axes)

    def random(self, shape: tuple[int, ...]) -> Array:
        return self.random_bits.uniform(0.25, 1.25, shape)

    def draw(self, shape: tuple[int, ...], kind: Kind) -> Array:
        if kind == "float":
            return self.random(shape)
        return self.random_bits.integers(0, 3, shape) if kind == "int" else self.random_bits.uniform(size=shape) < _EXISTING

    def skeleton(self, cascade: Cascade) -> Cascade:
        """The steps that depend on reductions, with everything known as an input."""
        steps = [replace(step, body=rewrite(step.body, self.gathered), where=self.mask(step.where)) for step in self.unknown(cascade)]
        inputs = [Input(item.name, item.axes or (), len(item.axes or ()), item.kind) for item in cascade.inputs]
        inputs += [Input(step.name, step.axes, len(step.axes), kind_of(step.body)) for step in self.known.values()]
        inputs += [Input(item.name, item.axes, len(item.axes), item.kind) for item in self.hidden.values()]
        inputs.append(Input(self.extents, self.axes, len(self.axes)))
        return Cascade(tuple(inputs), tuple(steps), cascade.outputs)

    def unknown(self, cascade: Cascade) -> list[Einsum]:
        return [step for step in cascade.steps if step.name not in self.known]

    def gathered(self, node: Expr) -> Expr | None:
        """A gather as a read of a random array over the axes of its positions."""
        if not isinstance(node, Read):
            return None
        item = self.cascade.input(node.tensor)
        if item is None or (item.axes is not None and at_own_axes(node, item.axes)):
            return None
        return self.hide(node, node.kind)

    def mask(self, where: Expr | None) -> Expr | None:
        parts = build.conjuncts(where)
        return build.both(*(part if any(n in self.running for n in names_read(part)) else self.hide(part, "bool") for part in parts))

    def hide(self, expr: Expr, kind: Kind) -> Expr:
        if expr not in self.hidden:
            item = _Hidden(self.names.fresh("known"), free_axes(expr), kind)
            self.hidden[expr] = item
            self.values[item.name] = self.draw(self.shape(item.axes), kind)
        item = self.hidden[expr]
        return build.read(item.name, item.axes, kind)

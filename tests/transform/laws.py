"""What every derivation must satisfy, as assertions on the text of a cascade: float64 values and gradients against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Index
from attngen.ir.parser import parse
from attngen.ir.traverse import names_read, walk
from attngen.ir.verify import CanonicalForm, verify
from attngen.stages.stage_forms import verify_streamed
from attngen.transform.autodiff.differentiate import Backward, Gradient, differentiate
from attngen.transform.canonicalize import canonicalize
from attngen.transform.factor import factor
from attngen.transform.streaming.streaming import Streamed, streaming

SIZES = {"b": 2, "g": 2, "r": 2, "h": 4, "m": 5, "n": 7, "d": 4, "e": 6, "f": 3}
CAPTURES: dict[str, tuple[int, ...]] = {
    "slopes": (4,),
    "sink": (4,),
    "bias": (4, 5, 7),
    "table": (12,),
    "col": (2, 7),
    "row": (2, 5),
    "temp": (),
}


@dataclass(frozen=True)
class Point:
    """Where a law is checked.

    Attributes:
        sizes: lengths that differ from `SIZES`.
        captures: shapes of captures that `CAPTURES` lacks.
        given: values instead of random ones.
        scale: multiplies queries; `shift` is added to rows of scores, through `given`.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    captures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    seed: int = 0

    def length(self, axis: str) -> int:
        return {**SIZES, **self.sizes}[axis]

    def values(self, cascade: Cascade) -> dict[str, Any]:
        """A value for every input."""
        generator = torch.Generator().manual_seed(self.seed)
        shapes = {**CAPTURES, **self.captures}
        found: dict[str, Any] = {}
        for item in cascade.inputs:
            shape = [self.length(axis) for axis in item.axes] if item.axes is not None else list(shapes.get(item.name, ()))
            if item.name in self.given:
                found[item.name] = self.given[item.name]
            elif item.kind == "float":
                scale = self.scale if item.name.startswith("q") else 1.0
                found[item.name] = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
            else:
                found[item.name] = torch.randint(0, 3, shape, generator=generator)
        return found


AT = Point()


def close(found: Tensor, truth: Tensor, tolerance: float, name: str) -> None:
    """Equal where the truth is infinite, and elsewhere within a tolerance relative to its largest value."""
    assert found.shape == truth.shape, f"{name}: {tuple(found.shape)} instead of {tuple(truth.shape)}"
    finite = truth.isfinite()
    assert torch.equal(found[~finite], truth[~finite]), f"{name}: {found[~finite]} instead of {truth[~finite]}"
    scale = max(1.0, float(truth[finite].abs().max())) if finite.any() else 1.0
    error = float((found[finite] - truth[finite]).abs().max()) if finite.any() else 0.0
    assert error <= tolerance * scale, f"{name}: error {error / scale:.1e}"


def streamed_form(text: str) -> tuple[Cascade, Streamed]:
    """Both forms, verified."""
    cascade = verify(canonicalize(parse(text)), CanonicalForm)
    streamed = streaming(cascade, "m", "n")
    assert_streaming_form(streamed)
    return cascade, streamed


def assert_streaming_form(streamed: Streamed) -> None:
    """Text reads back; reductions over the streamed axis take no finished values; nothing along it waits for the end."""
    assert parse(str(streamed.cascade)) == streamed.cascade
    verify_streamed(streamed)


def gauges_at(streamed: Streamed, point: Point, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    axes = {gauge.name: streamed.cascade.axes(gauge.name) for gauge in streamed.gauges}
    return {name: torch.randn([point.length(axis) for axis in own], generator=generator, dtype=torch.float64) for name, own in axes.items()}


def exponents_at(streamed: Streamed, values: Mapping[str, Any], point: Point) -> dict[str, Tensor]:
    """The largest exponent of each row, as a kernel would have it; 0 for a row without any."""
    cascade = streamed.cascade
    steps = [
        step for step in cascade.steps if step.name in {gauge.exponent for gauge in streamed.gauges} or step.name not in _running(streamed)
    ]
    maxima = []
    for gauge in streamed.gauges:
        exponent, weight = cascade.step(gauge.exponent), cascade.step(gauge.weight)
        assert exponent is not None and weight is not None
        body = build.read(exponent.name, exponent.axes)
        maxima.append(Einsum(f"{gauge.name}_top", cascade.axes(gauge.name), body, "max", (streamed.streamed,), weight.where))
    if not maxima:
        return {}
    known = Cascade(cascade.inputs, (*steps, *maxima), tuple(step.name for step in maxima))
    dummy = {gauge.name: torch.zeros([point.length(axis) for axis in cascade.axes(gauge.name)]) for gauge in streamed.gauges}
    found = reference(known, {**dummy, **values})
    return {gauge.name: torch.nan_to_num(found[f"{gauge.name}_top"], neginf=0.0) for gauge in streamed.gauges}


def _running(streamed: Streamed) -> set[str]:
    running = {gauge.name for gauge in streamed.gauges}
    for step in streamed.cascade.steps:
        if streamed.streamed in step.over or running & {*names_read(step.body), *names_read(step.where)}:
            running.add(step.name)
    return running


def assert_values(text: str, point: Point = AT, *, random_gauge: bool = True, tolerance: float = 1e-12) -> Streamed:
    """The streamed cascade, at any gauge, computes what the user wrote."""
    cascade, streamed = streamed_form(text)
    values = point.values(cascade)
    truth = reference(parse(text), values)
    gauges = gauges_at(streamed, point) if random_gauge else exponents_at(streamed, values, point)
    found = reference(streamed.cascade, {**values, **gauges})
    for name in cascade.outputs:
        close(found.get(name, values.get(name)), truth.get(name, values.get(name)), tolerance, name)
    return streamed


def assert_gradients(
    text: str,
    point: Point = AT,
    *,
    random_gauge: bool = True,
    tolerance: float = 1e-10,
    wrt: tuple[str, ...] | None = None,
    precise_delta: bool = False,
) -> Backward:
    """The derived backward, before and after `factor`, computes what autograd of the reference does."""
    cascade, streamed = streamed_form(text)
    targets = wrt if wrt is not None else tuple(item.name for item in cascade.inputs if item.differentiable)
    backward = differentiate(streamed, targets, precise_delta=precise_delta)
    values = point.values(cascade)
    leaves = {name: value.clone().requires_grad_() if name in targets else value for name, value in values.items()}
    outputs = {**leaves, **reference(parse(text), leaves)}
    generator = torch.Generator().manual_seed(7)
    cotangents = {d: torch.randn(outputs[o].shape, generator=generator, dtype=torch.float64) for o, d in backward.cotangents}
    loss = sum((torch.where(outputs[o].isfinite(), outputs[o], 0.0) * cotangents[d]).sum() for o, d in backward.cotangents)
    truth = torch.autograd.grad(loss, [leaves[name] for name in targets], allow_unused=True)
    gauges = gauges_at(streamed, point) if random_gauge else exponents_at(streamed, values, point)
    forward = {**values, **reference(backward.forward.cascade, {**values, **gauges})}
    saved = {item.name: forward[item.name] for item in backward.saved}
    known = {**values, **cotangents, **saved}
    for stage, gradient_cascade in (("derived", backward.cascade), ("hoisted", factor(backward.cascade))):
        assert parse(str(gradient_cascade)) == gradient_cascade
        found = completed(backward.gradients, gradient_cascade, known)
        for name, expected in zip(targets, truth, strict=True):
            zero = torch.zeros_like(leaves[name])
            close(found.get(name, zero), zero if expected is None else expected, tolerance, f"{stage} gradient of {name}")
    return backward


def completed(gradients: tuple[Gradient, ...], cascade: Cascade, known: Mapping[str, Any]) -> dict[str, Tensor]:
    """Whole gradients by target: sums over the axes the target lacks, partial gradients added into the positions they were read at."""
    found = {**known, **reference(cascade, known)}
    total: dict[str, Tensor] = {}
    for gradient in gradients:
        axes, part = cascade.axes(gradient.step), found[gradient.step]
        target = known[gradient.target]
        total.setdefault(gradient.target, torch.zeros_like(target))
        item = cascade.input(gradient.target)
        assert item is not None
        if gradient.at is None:
            assert item.axes is not None
            extra = [i for i, axis in enumerate(axes) if axis not in item.axes]
            part = part.sum(extra) if extra else part
            kept = [axis for axis in axes if axis in item.axes]
            total[gradient.target] += part.permute([kept.index(axis) for axis in item.axes]).expand_as(target)
        else:
            used = {node.axis for at in gradient.at for node in walk(at) if isinstance(node, Index)}
            assert used <= set(axes), f"the gradient of {gradient.target} lacks axes of its position"
            if gradient.at:
                total[gradient.target].index_put_(positions(gradient.at, axes, cascade, known, part), part, accumulate=True)
            else:
                total[gradient.target] += part.sum()
    return total


def positions(at: tuple[Expr, ...], axes: tuple[str, ...], cascade: Cascade, known: Mapping[str, Any], part: Tensor) -> tuple[Tensor, ...]:
    """The positions of a gather over the axes of a partial gradient."""
    steps = tuple(Einsum(f"at{i}", axes, expr) for i, expr in enumerate(at))
    extents = Input("part", axes, len(axes))
    found = reference(Cascade((*cascade.inputs, extents), steps, tuple(step.name for step in steps)), {**known, "part": part})
    return tuple(found[step.name].expand(part.shape) for step in steps)

"""What kernels compute, without running any: their steps are a cascade, which the reference evaluates in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Index
from attngen.ir.parser import parse
from attngen.ir.traverse import step_reads
from attngen.kernel.kernel import Kernel
from attngen.pipeline import Program, analyse
from tests.transform.laws import CAPTURES, SIZES

Values = Mapping[str, Any]


@cache
def program(text: str) -> Program:
    return analyse(parse(text))


def kernels(text: str) -> dict[str, Kernel]:
    """The kernels of a cascade before rewrites, by role."""
    return {kernel.role: kernel for kernel in program(text).parts}


def drawn(inputs: Iterable[Input], captures: Mapping[str, tuple[int, ...]] = CAPTURES) -> dict[str, Any]:
    """A value for each input, the same for the same name and shape."""
    found: dict[str, Any] = {}
    for item in inputs:
        shape = [SIZES[axis] for axis in item.axes] if item.axes is not None else list(captures.get(item.name, ()))
        generator = torch.Generator().manual_seed(sum(map(ord, item.name)))
        if item.kind == "float":
            found[item.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            found[item.name] = torch.randint(1, 4, shape, generator=generator)
    return found


def gauges(kernel: Kernel) -> tuple[Input, ...]:
    """The running maxima of a kernel, as inputs."""
    rows = {gauge.name: tuple(axis for axis in kernel.axes(gauge.exponent) if axis != kernel.streamed) for gauge in kernel.gauges}
    return tuple(Input(name, axes, len(axes)) for name, axes in rows.items())


def largest(kernel: Kernel, values: Values) -> dict[str, Tensor]:
    """The final value of each running maximum, minus infinity in rows without keys."""
    later = {gauge.name for gauge in kernel.gauges}
    early: list[Einsum] = []
    for step in kernel.steps:
        if later & set(step_reads(step)) or kernel.streamed in step.over:
            later.add(step.name)
        else:
            early.append(step)
    known = {step.name: step for step in kernel.steps}
    steps: list[Einsum] = []
    for gauge, item in zip(kernel.gauges, gauges(kernel), strict=True):
        exponent = build.read(gauge.exponent, kernel.axes(gauge.exponent))
        steps.append(Einsum(item.name, item.axes or (), exponent, "max", (kernel.streamed or "",), known[gauge.weight].where))
    found = reference(*_measured(Cascade(kernel.inputs, (*early, *steps), tuple(step.name for step in steps)), values))
    return {step.name: found[step.name] for step in steps}


def computed(kernel: Kernel, values: Values, maxima: Values | None = None) -> dict[str, Tensor]:
    """The outputs of a kernel, at its own maxima or at those given."""
    maxima = largest(kernel, values) if maxima is None else maxima
    finite = {name: torch.nan_to_num(value, neginf=0.0) for name, value in maxima.items()}
    own = tuple(step for step in kernel.steps if step.name not in finite)
    cascade = Cascade((*kernel.inputs, *gauges(kernel)), own, kernel.outputs)
    found = reference(*_measured(cascade, {**values, **finite}))
    return {name: found[name] if name in found else torch.as_tensor(values[name]) for name in kernel.outputs}


def _measured(cascade: Cascade, values: Values) -> tuple[Cascade, Values]:
    """A cascade with an input that has the lengths of all axes: a kernel may read nothing that tells them."""
    lengths = Input("lengths", tuple(SIZES), len(SIZES))
    return replace(cascade, inputs=(*cascade.inputs, lengths)), {**values, "lengths": torch.zeros(()).expand(*SIZES.values())}


def within(kernel: Kernel, axis: str, first: int, last: int) -> Kernel:
    """A kernel for which no positions of an axis exist but those from `first` to before `last`."""
    part = build.both(build.apply("ge", Index(axis), build.const(first)), build.apply("lt", Index(axis), build.const(last)))
    weights = {gauge.weight for gauge in kernel.gauges}
    steps = (replace(s, where=build.both(s.where, part)) if axis in s.over or s.name in weights else s for s in kernel.steps)
    return replace(kernel, steps=tuple(steps))


def close(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], tolerance: float = 1e-11) -> None:
    """The same names with the same values; what no number comes of stays so."""
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )

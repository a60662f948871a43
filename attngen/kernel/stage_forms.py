"""Checks of the Form of each pipeline step's result, for `ATTNGEN_VERIFY`. A broken rule is a bug of attngen, whatever the user wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attngen.errors import InternalError, MalformedCascade
from attngen.ir.cascade import Input, arguments_first
from attngen.ir.traverse import names_read, reads
from attngen.ir.verify import (
    CanonicalForm,
    Form,
    TracedForm,
    axes_are_bound,
    inputs_are_consistent,
    kinds_are_right,
    names_are_unique,
    outputs_exist,
    reads_are_earlier,
    steps_are_live,
    verify,
)
from attngen.kernel.kernel import Kernel
from attngen.transform.autodiff.differentiate import Backward
from attngen.transform.streaming.gauges import Streamed

_CARRIED = ("sum", "max")
"""Reductions that one pass can accumulate."""


class StepsForm(Form):
    """Well-formed steps: names, reads, axes and kinds as in TracedForm. A gradient cascade may have no outputs."""

    rules = (names_are_unique, inputs_are_consistent, reads_are_earlier, axes_are_bound, kinds_are_right)


class GradientForm(Form):
    """The output of `differentiate` and `factor`: StepsForm with live steps only."""

    rules = (*StepsForm.rules, steps_are_live)


def verify_step(name: str, value: object) -> None:
    """Check the Form of a step's result.

    Args:
        name: the pipeline's name of the step.
        value: its result.

    Raises:
        InternalError: the result lacks the Form.
    """
    try:
        _CHECKS[name](value)
    except MalformedCascade as error:
        remedy = "This is a bug of attngen. Please report it with what ATTNGEN_DUMP=trace prints."
        raise InternalError(f"the result of the step {name} has not its form: {error.rule}", loc=error.loc, remedy=remedy) from error


def verify_streamed(streamed: Streamed) -> None:
    """StreamingForm: one pass over the streamed axis suffices.

    A reduction over it is a sum, or a maximum that is a value. A step along it, or a reduction over it, reads no finished value (one that
    depends on a reduction over it), and a gauge only as its weight or offset. Accumulators, and the row value of each gauge, are finished.

    Raises:
        MalformedCascade: naming the step.
    """
    verify(streamed.cascade, StepsForm)
    outputs_exist(streamed.cascade)
    along = {name for gauge in streamed.gauges for name in (gauge.weight, gauge.offset) if name is not None}
    gauges = {gauge.name for gauge in streamed.gauges}
    finished: set[str] = set()
    for step in streamed.cascade.steps:
        sources = {*names_read(step.body), *names_read(step.where)}
        if streamed.streamed in (*step.axes, *step.over):
            if sources & finished:
                raise MalformedCascade(f"{step.name} needs {', '.join(sorted(sources & finished))} before the pass has ended", loc=step.loc)
            if sources & gauges and step.name not in along:
                raise MalformedCascade(f"{step.name} reads the gauge {', '.join(sorted(sources & gauges))}", loc=step.loc)
        if streamed.streamed in step.over and step.reduce not in _CARRIED:
            raise MalformedCascade(f"{step.name} is a {step.reduce} over {streamed.streamed}, which no pass carries", loc=step.loc)
        if streamed.streamed in step.over or sources & finished or (sources & gauges and step.name not in along):
            finished.add(step.name)
    wanted = {item.name for item in streamed.accumulators} | {gauge.value for gauge in streamed.gauges}
    if not finished >= wanted:
        raise MalformedCascade(f"nothing finishes {', '.join(sorted(wanted - finished))}")


def verify_backward(backward: Backward) -> None:
    """The forward is in StreamingForm; cotangents are inputs of the gradient cascade, saved values are steps of the forward, and the steps
    of gradients are outputs.

    Raises:
        MalformedCascade: naming what is missing.
    """
    verify_streamed(backward.forward)
    verify(backward.cascade, GradientForm)
    inputs = {item.name for item in backward.cascade.inputs}
    for output, cotangent in backward.cotangents:
        if output not in backward.forward.cascade.outputs or cotangent not in inputs:
            raise MalformedCascade(f"{cotangent} is not the cotangent of an output")
    for saved in backward.saved:
        if backward.forward.cascade.step(saved.name) is None:
            raise MalformedCascade(f"{saved.name} is saved, and no step of the forward")
    for gradient in backward.gradients:
        if gradient.step not in backward.cascade.outputs or gradient.target not in inputs:
            raise MalformedCascade(f"the gradient of {gradient.target} is made of {gradient.step}, which is no output")


def verify_kernels(kernels: tuple[Kernel, ...]) -> None:
    """Each kernel is a cascade of its own, over its axes; roles differ.

    Raises:
        MalformedCascade: naming the kernel.
    """
    roles = [kernel.role for kernel in kernels]
    if len(set(roles)) != len(roles):
        raise MalformedCascade(f"two kernels have one role among {', '.join(roles)}")
    for kernel in kernels:
        try:
            _verify_kernel(kernel)
        except MalformedCascade as error:
            raise MalformedCascade(f"in the kernel {kernel.role}: {error.rule}", loc=error.loc) from error


def _verify_kernel(kernel: Kernel) -> None:
    names = {gauge.name for gauge in kernel.gauges}
    carried = {read.tensor: len(read.at) for step in kernel.steps for read in reads(step.body) if read.tensor in names}
    gauges = tuple(Input(name, None, rank) for name, rank in carried.items())
    whole = replace(kernel.cascade, inputs=arguments_first((*kernel.cascade.inputs, *gauges)))
    verify(whole, StepsForm)
    outputs_exist(whole)
    own = [kernel.resident, *([kernel.streamed] if kernel.streamed is not None else []), *kernel.grid, *kernel.loops, *kernel.features]
    if len(set(own)) != len(own):
        raise MalformedCascade(f"an axis has two parts among {', '.join(own)}")
    for step in kernel.steps:
        foreign = {*step.axes, *step.over} - set(own)
        if foreign:
            raise MalformedCascade(f"{step.name} has the axis {', '.join(sorted(foreign))}, which the kernel lacks", loc=step.loc)
        if kernel.streamed is not None and kernel.streamed in step.over and step.reduce not in _CARRIED:
            raise MalformedCascade(f"{step.name} is a {step.reduce} over {kernel.streamed}, which no pass carries", loc=step.loc)
    for name in kernel.outputs:
        if whole.step(name) is None:
            raise MalformedCascade(f"the output {name} is no step")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "trace": lambda cascade: verify(cascade, TracedForm),
    "canonicalize": lambda cascade: verify(cascade, CanonicalForm),
    "streaming": verify_streamed,
    "differentiate": verify_backward,
    "factor": lambda cascade: verify(cascade, GradientForm),
    "partition": verify_kernels,
    "rewrite": verify_kernels,
}

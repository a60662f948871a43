"""Checks of the Form of each pipeline step's result, for `ATTNGEN_VERIFY`. A broken rule is a bug of attngen, whatever the user wrote."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from attngen.emit.identifiers import tensor_name
from attngen.emit.kernel_text import Lowered
from attngen.errors import InternalError, MalformedCascade
from attngen.facts.kernel_facts import KernelFacts
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
from attngen.schedule.choose import Choice
from attngen.tile.program_verify import verify as verify_program
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
        STEPS[name](value)
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


def verify_facts(facts: tuple[KernelFacts, ...]) -> None:
    """FactsForm: kernels in their Form, and facts that speak of the kernel they stand beside: a guard for each step, prefetched dots among
    the steps and rows among the inputs; only what streams has ranges, and only what has ranges is listed.

    Raises:
        MalformedCascade: naming the kernel.
    """
    verify_kernels(tuple(item.kernel for item in facts))
    for item in facts:
        kernel, where = item.kernel, f"the facts of {item.role}"
        steps, inputs = {step.name for step in kernel.steps}, {known.name for known in kernel.inputs}
        if item.work.role != kernel.role:
            raise MalformedCascade(f"{where} have the work of {item.work.role}")
        if set(item.guards) != steps:
            raise MalformedCascade(f"{where} have guards of {_names(set(item.guards) ^ steps)}, or lack them")
        foreign = {*item.dots_to_zero, *item.prefetched} - steps | set(item.dense_rows) - inputs
        if foreign:
            raise MalformedCascade(f"{where} speak of {_names(foreign)}, which the kernel lacks")
        if (item.ranges is None) != (kernel.streamed is None) or (item.listed and item.ranges is None):
            raise MalformedCascade(f"{where} have ranges, and nothing streams, or the other way round")


def verify_choice(choice: Choice) -> None:
    """ScheduleForm: one tile and one reason for each kernel, in the same order; a tile that is not its reason's is the user's.

    Raises:
        MalformedCascade: naming the kernel.
    """
    roles, reasons = [role for role, _ in choice.schedule.tiles], {reason.role: reason for reason in choice.reasons}
    if roles != [reason.role for reason in choice.reasons]:
        raise MalformedCascade(f"tiles are for {', '.join(roles)}, and reasons for {', '.join(reasons)}")
    foreign = {*choice.asked, *choice.doubtful} - set(roles)
    if foreign:
        raise MalformedCascade(f"{_names(foreign)} has a tile of the user's, and is no kernel")
    for role, tile in choice.schedule.tiles:
        if tile != reasons[role].tile and role not in choice.asked:
            raise MalformedCascade(f"{role} has the tile {tile}, which neither its reason gives nor the user")


def verify_lowered(written: tuple[tuple[Kernel, Lowered], ...]) -> None:
    """LoweredForm: kernels of different names, each with parameters of different names, pointers first and lengths last, among them one
    that leads to each output of its own.

    Raises:
        MalformedCascade: naming the kernel.
    """
    names = [lowered.context.name for _, lowered in written]
    if len(set(names)) != len(names):
        raise MalformedCascade(f"two kernels have one name among {', '.join(names)}")
    for kernel, lowered in written:
        where, params = f"the kernel {lowered.context.name}", lowered.params
        taken = [*(param.name for param in params), *lowered.constexprs, *lowered.context.flags]
        if len(set(taken)) != len(taken):
            raise MalformedCascade(f"{where} has two parameters of one name among {', '.join(taken)}")
        if [*params] != sorted(params, key=lambda param: param.order):
            raise MalformedCascade(f"{where} has its parameters out of order: {', '.join(param.name for param in params)}")
        in_chunks = {item.step for item in kernel.scatters if item.form != "stored"}
        stored = {param.tensor for param in params if param.kind == "result"}
        lost = {name for name in kernel.outputs if name not in in_chunks and tensor_name(name) not in stored}
        if lost:
            raise MalformedCascade(f"{where} has no pointer to {_names(lost)}")


def verify_text(text: str) -> None:
    """PrintedForm: Python that defines the launching function of a forward.

    Raises:
        MalformedCascade: it does not parse, or lacks that.
    """
    try:
        defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    except SyntaxError as error:
        raise MalformedCascade(f"the text is no Python: {error}") from error
    if "forward" not in defined:
        raise MalformedCascade("the text defines no forward")


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


STEPS: dict[str, Callable[[Any], object]] = {
    "trace": lambda cascade: verify(cascade, TracedForm),
    "canonicalize": lambda cascade: verify(cascade, CanonicalForm),
    "streaming": verify_streamed,
    "differentiate": verify_backward,
    "factor": lambda cascade: verify(cascade, GradientForm),
    "partition": verify_kernels,
    "rewrite": verify_kernels,
    "facts": verify_facts,
    "schedule": verify_choice,
    "tile": lambda programs: tuple(map(verify_program, programs)),
    "lower": verify_lowered,
    "print": verify_text,
}
"""The steps of the pipeline in order, each with the check of what it gives."""

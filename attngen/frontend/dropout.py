"""Dropout inside a kernel: a factor that is 0 at random positions, drawn by a counter-based generator from the seed of a call.

Takes a traced value and a rate; gives the value times a step `keep`. No mask is stored: forward and backward draw the same bits for a
position, whatever their tiles.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attngen.errors import SpecError
from attngen.frontend.functions import axes_of, traced
from attngen.frontend.spec import Spec
from attngen.frontend.tracing.trace import Trace
from attngen.frontend.tracing.tracer import Traced, lift, pointwise
from attngen.frontend.tracing.user_frames import locate, user_place
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.eval.philox import BITS
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.traverse import live_steps, rewrite, step_reads
from attngen.source import SourceLoc

_SITE = 2**48
"""Streams reserved for each dropout of a variant: more than a call has heads."""


def dropout(x: Any, rate: Any) -> Traced:
    """The value, set to 0 at a share `rate` of its positions and divided by 1 - rate at the others, as `torch.nn.functional.dropout`.

    The dropped positions depend only on the seed of the call and the position along the axes of the value.

    Args:
        x: a value of a cascade, such as the weights of a softmax; drawn independently at each position along its axes.
        rate: a number in [0, 1), part of the variant.

    Raises:
        SpecError: the rate is not a number in [0, 1).
    """
    value, trace = traced(x)
    known = lift(rate, trace).known()
    checked = check_rate(rate if known is None else known)
    if checked == 0.0:
        return value
    axes = axes_of(value.expr, trace)
    return pointwise("mul", value, Traced(keep_step(trace, axes, checked, locate(user_place())), trace))


def check_rate(rate: Any) -> float:
    """A dropout rate as a float.

    Raises:
        SpecError: it is not a number in [0, 1).
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise SpecError(f"dropout with a rate of type {type(rate).__name__}", remedy="The rate is a number and part of the variant.")
    if not 0.0 <= rate < 1.0:
        raise SpecError(
            f"dropout with rate {rate}", remedy="A rate is in [0, 1): kept values are divided by 1 - rate. Use a mask to exclude values."
        )
    return float(rate)


def keep_step(trace: Trace, axes: tuple[str, ...], rate: float, loc: SourceLoc | None) -> Read:
    """A step along `axes`: 0 at a share `rate` of the positions, 1 / (1 - rate) at the others. The last two axes are row and column."""
    seed, site = trace.draw()
    *outer, row, column = (*([None] * (2 - len(axes))), *axes)
    stream: Expr = build.const(0)
    for axis in outer:
        if axis is not None:
            stream = build.add(build.mul(stream, Extent(axis)), Index(axis))
    stream = build.add(stream, build.const(site * _SITE))
    position = (build.const(0) if axis is None else Index(axis) for axis in (row, column))
    bits = Apply("random_bits", (seed, stream, *position))
    least = min(round(rate * 2**BITS), 2**BITS - 1)
    body = build.apply("where", build.apply("ge", bits, build.const(least)), build.const(1.0 / (1.0 - rate)), build.ZERO)
    return trace.add(Einsum(trace.fresh("keep"), axes, body, loc=loc))


def without_dropout(spec: Spec) -> Spec:
    """The variant for inference: with every `keep` step replaced by 1."""
    if spec.seed is None:
        return spec
    kept = {step.name for step in spec.cascade.steps if spec.seed in step_reads(step)}

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in kept:
            return build.ONE
        return build.apply(node.op, *node.args) if isinstance(node, Apply) and node.op == "mul" else None

    steps = tuple(replace(step, body=rewrite(step.body, rule)) for step in spec.cascade.steps if step.name not in kept)
    inputs = tuple(item for item in spec.cascade.inputs if item.name != spec.seed)
    cascade = replace(spec.cascade, inputs=inputs, steps=live_steps(replace(spec.cascade, steps=steps)))
    captures = tuple(capture for capture in spec.captures if capture.name != spec.seed)
    other = None if spec.reordered is None else without_dropout(spec.reordered)
    return replace(spec, cascade=cascade, captures=captures, seed=None, reordered=other)

"""What each axis of a cascade is for.

An argument of attention ends in a position along a sequence and a feature: q[..., m, d]. From that, and from which axis is summed in
the presence of the other one, follow the roles on which a kernel is built. Nothing here knows the names of axes or of variants.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.errors import AxisError, UnsupportedError
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Index, Read
from attngen.ir.traverse import children, free_axes, step_reads

_REMEDY = "Attention needs queries [..., m, d] and keys [..., n, d] with two different sequence axes, one of them reduced over."


@dataclass(frozen=True, slots=True)
class Roles:
    """What the axes of a cascade are for.

    Attributes:
        resident: the sequence axis whose tile stays (query rows).
        streamed: the sequence axis that is reduced over in its presence (keys).
        features: axes inside of a row, in order of appearance.
        grid: every other axis (batch, heads), in order of appearance.
    """

    resident: str
    streamed: str
    features: tuple[str, ...]
    grid: tuple[str, ...]


def roles(cascade: Cascade) -> Roles:
    """The roles of all axes of a forward cascade.

    A feature axis is the last one of every argument that has it, or belongs to captured rows only and is summed. A sequence axis
    stands directly before a feature, and never further in front of one. The streamed axis is the sequence axis that some step
    reduces over while its body has the other one.

    Raises:
        AxisError: there are not two sequence axes, or none of them is reduced over.
        UnsupportedError: more than two sequence axes, both of them are reduced over, an output carries the streamed axis, or a step
            reduces over an axis of heads or batches.
    """
    arguments = [item for item in cascade.inputs if item.axes]
    features = _features(cascade, arguments)
    sequence = _sequence(arguments, features)
    if len(sequence) > 2:
        raise UnsupportedError(
            f"more than two sequence axes: {', '.join(sequence)}", remedy="A kernel keeps one sequence axis and streams one."
        )
    if len(sequence) < 2:
        found = f"only {sequence[0]!r} is a sequence axis" if sequence else "no sequence axis"
        raise AxisError(f"{found} among the arguments", remedy=_REMEDY)
    streamed = _streamed(cascade, sequence)
    for name in cascade.outputs:
        if streamed in cascade.axes(name):
            step = cascade.step(name)
            raise UnsupportedError(
                f"the output {name if step is None else step.called} has the streamed axis {streamed!r}, as large as the score matrix",
                loc=None if step is None else step.loc,
                remedy=f"Return values that are reduced over {streamed!r}.",
            )
    resident = sequence[0] if streamed == sequence[1] else sequence[1]
    other = tuple(axis for axis in _all_axes(cascade) if axis not in (*sequence, *features))
    _refuse_mixed_heads(cascade, set(sequence), other)
    return Roles(resident, streamed, features, other)


def _refuse_mixed_heads(cascade: Cascade, sequence: set[str], other: tuple[str, ...]) -> None:
    """A program has the tiles of one head of one batch; what is reduced over heads would need those of all of them at once."""
    scores: set[str] = set()
    for step in reversed(cascade.steps):
        if step.reduce in ("max", "logsumexp") or step.name in scores:
            scores |= set(step_reads(step))
    for step in cascade.steps:
        mixed = next((axis for axis in step.over if axis in other), None)
        if mixed is not None:
            pairs = sequence <= _space(step)
            place = "" if not pairs else " before the softmax" if step.name in scores else " behind the softmax"
            raise UnsupportedError(
                f"heads are mixed{place}: a {step.reduce} over {mixed!r}, an axis of heads or batches, and each program has one of them",
                loc=step.loc,
                remedy=f"Compute it from results or arguments outside of the call, or give every value the axis {mixed!r}.",
            )


def _all_axes(cascade: Cascade) -> tuple[str, ...]:
    of_inputs = (axis for item in cascade.inputs for axis in item.axes or ())
    of_steps = (axis for step in cascade.steps for axis in (*step.axes, *step.over))
    return tuple(dict.fromkeys((*of_inputs, *of_steps)))


def _features(cascade: Cascade, arguments: list[Input]) -> tuple[str, ...]:
    axes = dict.fromkeys(axis for item in arguments for axis in item.axes or ())
    inner = {axis for item in arguments if item.axes for axis in item.axes[:-1]}
    last = [axis for axis in axes if axis not in inner]
    summed = dict.fromkeys(axis for step in cascade.steps if step.reduce == "sum" for axis in step.over if axis not in axes)
    return (*last, *(axis for axis in summed if _within_captured_rows(cascade, axis)))


def _within_captured_rows(cascade: Cascade, axis: str) -> bool:
    """Whether an axis is only ever the last position of a captured tensor, or of a step that has it last."""

    def inside(expr: Expr) -> bool:
        match expr:
            case Index(axis=other):
                return other != axis
            case Read(at=at) if at and at[-1] == Index(axis):
                return all(inside(position) for position in at[:-1])
            case _:
                return all(inside(child) for child in children(expr))

    return all(inside(step.body) and (step.where is None or inside(step.where)) for step in cascade.steps)


def _sequence(arguments: list[Input], features: tuple[str, ...]) -> tuple[str, ...]:
    rows = [item.axes[:-1] for item in arguments if item.axes and item.axes[-1] in features]
    in_front = {axis for axes in rows for axis in axes[:-1]}
    return tuple(dict.fromkeys(axes[-1] for axes in rows if axes and axes[-1] not in in_front))


def _streamed(cascade: Cascade, sequence: tuple[str, ...]) -> str:
    first, second = sequence
    meeting = [step for step in cascade.steps if set(sequence) <= _space(step)]
    reduced = [axis for axis in sequence if any(axis in step.over for step in meeting)]
    if not reduced:
        raise AxisError(f"no step reduces over {first!r} or {second!r} where both are present", remedy=_REMEDY)
    if len(reduced) > 1:
        step = next(step for step in meeting if reduced[1] in step.over)
        raise UnsupportedError(
            f"{step.called} reduces over {reduced[1]!r}, and another one over {reduced[0]!r}: one of them has to stay",
            loc=step.loc,
            remedy="Write a cascade for each direction.",
        )
    return reduced[0]


def _space(step: Einsum) -> set[str]:
    return {*free_axes(step.body), *free_axes(step.where)}

"""What each axis of a cascade is for.

The last two axes of an attention argument are a sequence axis and a feature axis: q[..., m, d]. Roles follow from that and from which
sequence axis is reduced over in the presence of the other. Axis names and variants play no part.
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
    """The roles of the axes of a cascade.

    Attributes:
        resident: the parallel sequence axis, whose tile is resident (query rows).
        streamed: the loop axis: the sequence axis that is reduced over (keys).
        features: axes within a row, in order of appearance.
        grid: all other axes (batch, heads), in order of appearance.
    """

    resident: str
    streamed: str
    features: tuple[str, ...]
    grid: tuple[str, ...]


def roles(cascade: Cascade) -> Roles:
    """The roles of all axes of a forward cascade.

    A feature axis is the last axis of every argument that has it, or a summed axis that only ever indexes the last dimension of captured
    tensors. A sequence axis directly precedes a feature axis, and is nowhere further in front of one. The streamed axis is the sequence
    axis that some step reduces over with the other one present.

    Raises:
        AxisError: fewer than two sequence axes, or neither is reduced over.
        UnsupportedError: more than two sequence axes, both are reduced over, an output carries the streamed axis, or a step reduces over
            an axis of heads or batches.
    """
    arguments = [item for item in cascade.inputs if item.axes]
    features = _features(cascade, arguments)
    sequence = _sequence(arguments, features)
    if len(sequence) > 2:
        raise UnsupportedError(
            f"more than two sequence axes: {', '.join(sequence)}", remedy="A kernel is parallel over one sequence axis and loops over one."
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
    """Refuse reductions over heads or batches: a program holds the tiles of one head of one batch."""
    scores: set[str] = set()
    for step in reversed(cascade.steps):
        if step.reduce in ("max", "logsumexp") or step.name in scores:
            scores |= set(step_reads(step))
    for step in cascade.steps:
        mixed = next((axis for axis in step.over if axis in other), None)
        if mixed is not None:
            pairs = sequence <= _space(step)
            place = "" if not pairs else " before the softmax" if step.name in scores else " after the softmax"
            raise UnsupportedError(
                f"heads are mixed{place}: a {step.reduce} over {mixed!r}, an axis of heads or batches, of which a program has one element",
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
    """Whether an axis only indexes the last dimension of tensors."""

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
        other, step = (next(step for step in meeting if axis in step.over) for axis in reduced)
        raise UnsupportedError(
            f"{other.called} reduces over {reduced[0]!r} and {step.called} over {reduced[1]!r}: a kernel loops over one sequence axis",
            loc=step.loc,
            remedy="Write a cascade for each direction.",
        )
    return reduced[0]


def _space(step: Einsum) -> set[str]:
    return {*free_axes(step.body), *free_axes(step.where)}

"""FuseMax's pass count: how many sweeps over an axis a cascade needs as written (a lower bound).

    sweep(T) of a reduction T over the axis = 1 + the last sweep that its body depends on
                                            = that sweep itself, at least 1, if T separates

A body along the axis cannot be evaluated in the sweep that finishes a value it reads: that costs one more pass, unless the reduction
separates (`separation`), so that the value multiplies the finished sum.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Index, Read
from attngen.ir.traverse import reads


@dataclass(frozen=True, slots=True)
class _Progress:
    """The sweep after which a value is available at one position of the axis (`finished`) and at all positions (`complete`)."""

    finished: int
    complete: int


def pass_count(cascade: Cascade, axis: str, separable: Collection[str] = ()) -> int:
    """The number of sweeps over an axis that the cascade needs, 0 if no step has it.

    Args:
        cascade: TracedForm or later.
        axis: the axis that is swept.
        separable: names of reductions over the axis whose bodies separate.
    """
    return max(sweeps(cascade, axis, separable).values(), default=0)


def sweeps(cascade: Cascade, axis: str, separable: Collection[str] = ()) -> dict[str, int]:
    """The sweep, counted from 1, of each reduction over the axis and of each output along the axis."""
    progress = {item.name: _Progress(0, 0) for item in cascade.inputs}
    found: dict[str, int] = {}
    for step in cascade.steps:
        finished = max((_needed(read, axis, cascade, progress) for read in (*reads(step.body), *reads(step.where))), default=0)
        if axis in step.over:
            sweep = max(1, finished) if step.name in separable else finished + 1
            progress[step.name] = _Progress(sweep, sweep)
            found[step.name] = sweep
        elif axis in step.axes:
            progress[step.name] = _Progress(finished, finished + 1)
            if step.name in cascade.outputs:
                found[step.name] = finished + 1
        else:
            progress[step.name] = _Progress(finished, finished)
    return found


def _needed(read: Read, axis: str, cascade: Cascade, progress: dict[str, _Progress]) -> int:
    """The sweep after which the element is available."""
    step: Einsum | None = cascade.step(read.tensor)
    if step is not None and axis in step.axes and read.at[step.axes.index(axis)] != Index(axis):
        return progress[read.tensor].complete
    return progress[read.tensor].finished

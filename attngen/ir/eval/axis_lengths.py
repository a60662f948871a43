"""The lengths of axes, read off the shapes of what a cascade is called with."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.errors import AxisError, ShapeMismatch
from attngen.ir.cascade import Cascade
from attngen.ir.expr import Index
from attngen.ir.traverse import reads


def axis_extents(cascade: Cascade, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The length of every axis: from the arguments, or else from the captures that the axis indexes plainly.

    Args:
        shapes: shape of every input.

    Raises:
        ShapeMismatch: a rank is wrong, or two inputs disagree about an axis.
        AxisError: no input tells the length of an axis that a step uses.
    """
    found: dict[str, tuple[int, str]] = {}
    for item in cascade.inputs:
        shape = shapes[item.name]
        if len(shape) != item.rank:
            raise ShapeMismatch(f"{item.name} must have {item.rank} dimensions, got shape {shape}")
        for axis, extent in zip(item.axes or (), shape, strict=False):
            _agree(found, axis, extent, item.name)
    of_arguments = frozenset(found)
    captures = {item.name for item in cascade.inputs if item.axes is None}
    for step in cascade.steps:
        for read in (*reads(step.body), *reads(step.where)):
            if read.tensor in captures:
                for axis, extent in zip(read.at, shapes[read.tensor], strict=True):
                    if isinstance(axis, Index) and axis.axis not in of_arguments:
                        _agree(found, axis.axis, extent, read.tensor)
    for step in cascade.steps:
        unknown = [axis for axis in (*step.axes, *step.over) if axis not in found]
        if unknown:
            raise AxisError(f"no input tells the length of axis {unknown[0]!r} of {step.called}", loc=step.loc)
    return {axis: extent for axis, (extent, _) in found.items()}


def _agree(found: dict[str, tuple[int, str]], axis: str, extent: int, name: str) -> None:
    other, owner = found.setdefault(axis, (extent, name))
    if other != extent:
        raise ShapeMismatch(f"axis {axis!r} has length {other} in {owner} and {extent} in {name}")

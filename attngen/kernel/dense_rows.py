"""Streamed tensors whose tiles are dense rows of a matrix, so that a TMA descriptor can load them."""

from __future__ import annotations

from attngen.ir.expr import Index, Read, kind_of
from attngen.ir.traverse import reads
from attngen.kernel.partition import Kernel


def is_matrix(read: Read, kernel: Kernel) -> bool:
    """Whether a read is of consecutive whole rows, along the loop axis, of a matrix or of a stack of matrices along one of `loops`."""
    axes = tuple(at.axis for at in read.at if isinstance(at, Index))
    inside = {item.name for item in kernel.inputs if item.axes is not None}
    if read.tensor not in inside or len(axes) != len(read.at) or kind_of(read) != "float" or len(looped_axes(read, kernel)) > 1:
        return False
    tile = [axis for axis in axes if axis not in (*kernel.grid, *kernel.loops)]
    return len(tile) == 2 and tile[0] == kernel.streamed and axes[-1] == tile[1] and tile[1] in kernel.features


def looped_axes(read: Read, kernel: Kernel) -> tuple[str, ...]:
    """The axes of `kernel.loops` that a read varies along."""
    return tuple(at.axis for at in read.at if isinstance(at, Index) and at.axis in kernel.loops)


def streamed_rows(kernel: Kernel) -> tuple[str, ...]:
    """Names of the inputs that are read so."""
    found = [read.tensor for step in kernel.steps for read in reads(step.body) if is_matrix(read, kernel)]
    return tuple(dict.fromkeys(found))

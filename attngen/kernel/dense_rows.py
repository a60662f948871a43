"""Which tensors stream as the rows of a matrix, so that a descriptor can fetch their tiles."""

from __future__ import annotations

from attngen.ir.expr import Index, Read, kind_of
from attngen.ir.traverse import reads
from attngen.kernel.partition import Kernel


def is_matrix(read: Read, kernel: Kernel) -> bool:
    """Whether a read takes whole rows as they stream, one after the other, from a matrix, or one of a stack that a loop goes through."""
    axes = tuple(at.axis for at in read.at if isinstance(at, Index))
    inside = {item.name for item in kernel.inputs if item.axes is not None}
    if read.tensor not in inside or len(axes) != len(read.at) or kind_of(read) != "float" or len(turns(read, kernel)) > 1:
        return False
    tile = [axis for axis in axes if axis not in (*kernel.grid, *kernel.loops)]
    return len(tile) == 2 and tile[0] == kernel.streamed and axes[-1] == tile[1] and tile[1] in kernel.features


def turns(read: Read, kernel: Kernel) -> tuple[str, ...]:
    """The axes that a kernel loops over and that a read varies along."""
    return tuple(at.axis for at in read.at if isinstance(at, Index) and at.axis in kernel.loops)


def streamed_rows(kernel: Kernel) -> tuple[str, ...]:
    """Names of the inputs that stream so."""
    found = [read.tensor for step in kernel.steps for read in reads(step.body) if is_matrix(read, kernel)]
    return tuple(dict.fromkeys(found))

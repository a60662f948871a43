"""Streamed tensors whose tiles are dense rows of a matrix, so that a TMA descriptor can load them."""

from __future__ import annotations

from attngen.analysis.predicates import contributions, guards
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr, Index, Read, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, reads
from attngen.kernel.masked_out import cleared, has_few_rows, project_mask, row_count
from attngen.kernel.partition import Kernel
from attngen.kernel.prefetched_dots import prefetchable_dots


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


def unspecialised(kernel: Kernel) -> str:
    """Why warps of a kernel cannot divide into those that fetch matrices and those that multiply ahead of their time; "" if they can."""
    if kernel.role != "forward" or not prefetchable_dots(kernel):
        return "no products of its scores can be formed in the turn before"
    if kernel.bias_dots:
        return 'a bias is folded into its scores, as it is not by without=["bias_as_dot"]'
    pair, features = {kernel.resident, kernel.streamed}, set(kernel.features)
    for step in kernel.steps:
        parts = signed_factors(step.body)
        if pair <= set(step.axes) and set(step.over) & features:
            # What belongs to pairs, or multiplies keys, would have to be computed.
            streamed = [part for part in parts if kernel.streamed in free_axes(part) or not set(free_axes(part)) & set(step.over)]
            wrong = [part for part in streamed if not _is_rows(part, kernel)] or streamed[1:]
        elif kernel.streamed in step.over and features & set(step.axes):
            wide = [part for part in parts if features & set(free_axes(part))]
            wrong = [part for part in wide if not _is_rows(part, kernel)] or wide[1:] or _doubtful(wide, step, kernel)
        else:
            # What is no operand of a product would have to be in registers.
            wrong = [read for read in reads(step.body) if is_matrix(read, kernel)]
        if wrong:
            return f"{print_expr(wrong[0])} in {step.name} is not read as rows lie in memory"
    return ""


def _doubtful(wide: list[Expr], step: Einsum, kernel: Kernel) -> list[Expr]:
    """Operands of a sum with arbitrary values at masked positions that no row count of the matrix excludes."""
    exists = contributions(step, guards(kernel.cascade))
    projection = project_mask(exists, kernel.streamed or "", kernel.resident, [other.name for other in kernel.steps])
    if has_few_rows(kernel, exists):
        return wide
    if projection is None:
        return []
    known = cleared(kernel)
    ends = {name for name, other in known.items() if other == projection and row_count(kernel, other) is not None}
    return [part for part in wide if isinstance(part, Read) and part.tensor not in ends]


def _is_rows(expr: Expr, kernel: Kernel) -> bool:
    return isinstance(expr, Read) and is_matrix(expr, kernel)


def streamed_rows(kernel: Kernel) -> tuple[str, ...]:
    """Names of the inputs that are read so."""
    found = [read.tensor for step in kernel.steps for read in reads(step.body) if is_matrix(read, kernel)]
    return tuple(dict.fromkeys(found))

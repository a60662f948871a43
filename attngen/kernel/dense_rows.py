"""Which tensors stream as the rows of a matrix, so that a descriptor can fetch their tiles."""

from __future__ import annotations

from attngen.analysis.predicates import Guards
from attngen.ir.algebra import signed_factors
from attngen.ir.expr import Expr, Index, Read, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, reads
from attngen.kernel.masked_out import alone, cleared, end_of_rows, is_of_few_rows
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


def unspecialised(kernel: Kernel, prefetched: tuple[str, ...], exists: Guards) -> str:
    """Why warps of a kernel cannot divide into those that fetch matrices and those that multiply ahead of their time; "" if they can.

    Args:
        kernel: after all rewrites.
        prefetched: its dots that can be issued an iteration ahead.
        exists: for each step the predicate of what it computes or reduces.
    """
    if kernel.role != "forward" or not prefetched:
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
            wrong = [part for part in wide if not _is_rows(part, kernel)] or wide[1:] or _doubtful(wide, exists[step.name], kernel)
        else:
            # What is no operand of a product would have to be in registers.
            wrong = [read for read in reads(step.body) if is_matrix(read, kernel)]
        if wrong:
            return f"{print_expr(wrong[0])} in {step.name} is not read as rows lie in memory"
    return ""


def _doubtful(wide: list[Expr], exists: Expr | None, kernel: Kernel) -> list[Expr]:
    """Operands of a sum that hold anything at positions that its mask takes away, and that no number of rows ends before these."""
    kept = alone(exists, kernel.streamed or "", kernel.resident, [other.name for other in kernel.steps])
    if is_of_few_rows(kernel, exists):
        return wide
    if kept is None:
        return []
    known = cleared(kernel)
    ends = {name for name, other in known.items() if other == kept and end_of_rows(kernel, other) is not None}
    return [part for part in wide if isinstance(part, Read) and part.tensor not in ends]


def _is_rows(expr: Expr, kernel: Kernel) -> bool:
    return isinstance(expr, Read) and is_matrix(expr, kernel)


def streamed_rows(kernel: Kernel) -> tuple[str, ...]:
    """Names of the inputs that stream so."""
    found = [read.tensor for step in kernel.steps for read in reads(step.body) if is_matrix(read, kernel)]
    return tuple(dict.fromkeys(found))

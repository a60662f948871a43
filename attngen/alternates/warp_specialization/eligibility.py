"""Whether warps of a kernel can divide into those that fetch tiles and those that multiply with them as they lie in memory."""

from __future__ import annotations

from attngen.analysis.predicates import Guards
from attngen.ir.algebra import signed_factors
from attngen.ir.expr import Expr, Read
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, reads
from attngen.kernel.dense_rows import is_matrix
from attngen.kernel.masked_out import cleared, has_few_rows, project_mask, row_count
from attngen.kernel.partition import Kernel


def why_ineligible(kernel: Kernel, prefetched: tuple[str, ...], exists: Guards) -> str:
    """What keeps a kernel from dividing its warps; "" if nothing does. Arguments as for `AlternateKernel.why_ineligible`."""
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
    kept = project_mask(exists, kernel.streamed or "", kernel.resident, [other.name for other in kernel.steps])
    if has_few_rows(kernel, exists):
        return wide
    if kept is None:
        return []
    known = cleared(kernel)
    ends = {name for name, other in known.items() if other == kept and row_count(kernel, other) is not None}
    return [part for part in wide if isinstance(part, Read) and part.tensor not in ends]


def _is_rows(expr: Expr, kernel: Kernel) -> bool:
    return isinstance(expr, Read) and is_matrix(expr, kernel)

"""Bias as dot: loop-invariant biases are added to the scores by a second, narrow dot.

z[m,n] = s[m,n] + (slope / c) * offset(n)    ->    z = s + phi @ psi.T,   phi[m] = (slope / c, ...),   psi[n] = (offset(n), ...)

Both operands are built in the prologue, once per head if `loops` sums over heads. An fp32 value takes three bfloat16 columns, each with the
rounding error of the one before, so that the sum is as exact as an fp32 addition. A bias that varies along the loop would have to be laid
out in every iteration, which costs more than it saves. In a backward, loop-invariant row terms join the dot (`augmented_columns`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from attngen.ir import build
from attngen.ir.algebra import factors, signed_terms, times
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr, Index, Offset, Read, Start
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, names_read, reads, walk
from attngen.kernel.partition import BiasDot, Kernel, addends
from attngen.kernel.rewrites.augmented_columns import with_row_terms
from attngen.kernel.rewrites.note import Note
from attngen.kernel.rewrites.scale_folding import exponent_row

MOST_COLUMNS = 32
_PARTS = 3


def bias_as_dot(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel with biases as dots, and a note for each step with a bias."""
    notes: list[Note] = []
    for step in kernel.steps:
        tile = _added_to(step, kernel)
        if tile is None:
            continue
        found = _sides(step, tile, kernel)
        if isinstance(found, str):
            notes.append(Note(step.name, kernel.role, False, found))
            continue
        whole = with_row_terms(kernel, step.name, lambda factor, kernel=kernel: not _why_not(factor, kernel))
        widths = [_with_bias_dot(other, step.name, tile) for other in (whole, kernel)]
        folded = next((other for other in widths if len(other.bias_dots[-1].columns) <= MOST_COLUMNS), None)
        if folded is None:
            text = f"{len(widths[-1].bias_dots[-1].columns)} columns are more than {MOST_COLUMNS}"
        else:
            text = (
                f"rank {len(found)} in {len(folded.bias_dots[-1].columns)} columns of a product, {len(found)} operations less for each pair"
            )
        notes.append(Note(step.name, kernel.role, folded is not None, text))
        kernel = folded or kernel
    return kernel, tuple(notes)


def _with_bias_dot(kernel: Kernel, name: str, tile: Read) -> Kernel:
    """The kernel with all addends of a tile in a bias dot of any width."""
    (step,) = (step for step in kernel.steps if step.name == name)
    sides = _sides(step, tile, kernel)
    columns = tuple(column for left, right in sides for column in _columns(left, right)) if not isinstance(sides, str) else ()
    return replace(kernel, bias_dots=(*kernel.bias_dots, BiasDot(name, tile, columns)))


def _added_to(step: Einsum, kernel: Kernel) -> Read | None:
    """The dot to which a step of an exponent adds a bias of products with one-sided factors; None for any other step."""
    terms = signed_terms(step.body)
    pair = {kernel.resident, kernel.streamed}
    sums = {other.name for other in kernel.steps if other.reduce == "sum" and set(other.over) <= set(kernel.features)}
    dots = sums | {other.name for other in kernel.steps if addends(other) and sums.issuperset(addends(other))}
    whole = [isinstance(term, Read) and term.tensor in dots and pair <= set(free_axes(term)) for _, term in terms]
    tiles = [term for (sign, term), is_tile in zip(terms, whole, strict=True) if is_tile and sign > 0 and isinstance(term, Read)]
    others = [term for (sign, term), is_tile in zip(terms, whole, strict=True) if not is_tile or sign < 0]
    narrow = all(not pair <= set(free_axes(factor)) for term in others for factor in factors(term))
    if step.reduce is not None or len(tiles) != 1 or not others or not narrow:
        return None
    read = any(step.name in names_read(x.body) and any(exponent_row(w, x) for w in kernel.steps) for x in kernel.steps)
    return tiles[0] if read else None


def _sides(step: Einsum, tile: Read, kernel: Kernel) -> list[tuple[Expr, Expr]] | str:
    """The resident and the streamed factor of each term, or why one cannot be laid out."""
    found: list[tuple[Expr, Expr]] = []
    for sign, term in signed_terms(step.body):
        if term == tile and sign > 0:
            continue
        streamed = [factor for factor in factors(term) if kernel.streamed in free_axes(factor)]
        resident = [factor for factor in factors(term) if factor not in streamed]
        reason = next(filter(None, (_why_not(factor, kernel) for factor in (*resident, *streamed))), "")
        if reason:
            return reason
        left, right = times(resident), times(streamed)
        found.append((left if sign > 0 else build.neg(left), right))
    return found


def _why_not(expr: Expr, kernel: Kernel) -> str:
    """Why the prologue cannot lay out a value; "" if it can."""
    # Kernels of pairs loop over heads within an iteration, and the fused backward has no registers left for an operand per head.
    variant = {kernel.streamed, *(kernel.loops if kernel.sums_tiles or kernel.atomic_adds else ())}
    if any(isinstance(node, Index | Start) and node.axis in variant for node in walk(expr)):
        return f"{print_expr(expr)} is not loop-invariant"
    if any(free_axes(read) and kernel.resident in free_axes(read) for read in reads(expr)):
        return f"{print_expr(expr)} may be infinite, and so may its parts"
    return ""


def _columns(left: Expr, right: Expr) -> list[tuple[tuple[Expr, int], tuple[Expr, int]]]:
    """Pairs of parts of both sides whose products add up to that of the sides within fp32 rounding."""
    parts = product(range(_parts(right)), range(_parts(left)))
    return [((left, i), (right, j)) for j, i in parts if i + j < _PARTS]


def _parts(expr: Expr) -> int:
    """The number of bfloat16 parts of a value: one for integers below 256, such as offsets."""
    if isinstance(expr, Offset) or build.is_const(expr, 1):
        return 1
    both = factors(expr)
    return 2 if len(both) == 2 and all(isinstance(factor, Offset) for factor in both) else _PARTS

"""What a weight is measured from, less what is the same in every turn: where a bias is folded, that goes with it.

w[m,n] = exp(x_tile[m,n] * c - (lse[m] - x_row[m]))      x_row[m] = slope * (start(n) - start(m)) - slope * offset(m)
x_tile'[m,n] = x_tile[m,n] - slope / c * offset(m)       w[m,n] = exp(x_tile'[m,n] * c - (lse[m] - slope * (start(n) - start(m))))

A column of a narrow product costs nothing, and what is left to add in a turn is a number: a row that stays takes it in by one
multiply-add, in base 2, and so does a row that passes. Maxima that run along are measured from the whole value, and keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attngen.ir import build
from attngen.ir.algebra import factors, over, signed_sum, signed_terms, times
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr, Index, Read, Start
from attngen.ir.traverse import names_read, step_reads, walk
from attngen.transform.partition import Kernel
from attngen.transform.scales import exponent_row, read_by_others


def with_row_terms(kernel: Kernel, name: str, stays: Callable[[Expr], bool]) -> Kernel:
    """The kernel with terms of rows in a step that is about to be folded.

    Args:
        kernel: which outputs the same before and after.
        name: of the step; itself where weights are not measured from one row value of which a term can move.
        stays: whether a factor can be laid out before the stream.
    """
    found = _exponent(kernel, name)
    if found is None or kernel.gauges:
        return kernel
    exponent, row, readers = found
    bodies = {step.name: step for step in kernel.steps if _is_row_step(step, kernel, readers)}
    terms = [term for sign, part in signed_terms(row) for term in _opened(sign, part, bodies)]
    moved = [(sign, term) for sign, term in terms if all(map(stays, factors(term)))]
    left = [(sign, _number_last(term, kernel)) for sign, term in terms if (sign, term) not in moved]
    if not moved or not left:
        return kernel
    scale = times(factor for factor in factors(exponent.body) if name not in names_read(factor))
    more = [(-sign, over(term, scale)) for sign, term in moved]

    def changed(step: Einsum) -> Einsum:
        if step.name == name:
            return replace(step, body=signed_sum([*signed_terms(step.body), *more]))
        if step.name in readers:
            return replace(step, body=build.exp(build.sub(build.read(exponent.name, exponent.axes), signed_sum(left))))
        return step

    steps = tuple(map(changed, kernel.steps))
    needed = {tensor for step in steps for tensor in step_reads(step)}
    return replace(kernel, steps=tuple(step for step in steps if step.name not in bodies or step.name in needed))


def _exponent(kernel: Kernel, name: str) -> tuple[Einsum, Expr, frozenset[str]] | None:
    """The only step that reads a step, if it is a multiple of it that only weights need, all measured from one row value; that value,
    and the weights."""
    exponents = [step for step in kernel.steps if name in step_reads(step)]
    if len(exponents) != 1 or name in kernel.outputs or read_by_others(exponents[0], kernel):
        return None
    (exponent,) = exponents
    rows = {step.name: row for step in kernel.steps if (row := exponent_row(step, exponent)) is not None}
    multiple = any(isinstance(factor, Read) and factor.tensor == name for factor in factors(exponent.body))
    return (exponent, next(iter(rows.values())), frozenset(rows)) if multiple and len(set(rows.values())) == 1 else None


def _is_row_step(step: Einsum, kernel: Kernel, readers: frozenset[str]) -> bool:
    """Whether a step is a row value that nothing but these weights needs."""
    plain = step.reduce is None and not step.over and step.where is None and step.name not in kernel.outputs
    rows = not {kernel.resident, kernel.streamed} <= set(step.axes)
    return plain and rows and all(other.name in readers for other in kernel.steps if step.name in step_reads(other))


def _opened(sign: int, part: Expr, bodies: dict[str, Einsum]) -> list[tuple[int, Expr]]:
    """A term, or those of the row value that it reads."""
    step = bodies.get(part.tensor) if isinstance(part, Read) else None
    own = step is not None and part == build.read(step.name, step.axes)
    return signed_terms(step.body, sign) if step is not None and own else [(sign, part)]


def _number_last(term: Expr, kernel: Kernel) -> Expr:
    """A product with what changes from turn to turn behind what does not."""

    def moves(factor: Expr) -> bool:
        return any(isinstance(node, Index | Start) and node.axis == kernel.streamed for node in walk(factor))

    return times(sorted(factors(term), key=moves))

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
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.scale_folding import exponent_row, read_by_others


def with_row_terms(kernel: Kernel, name: str, stays: Callable[[Expr], bool]) -> Kernel:
    """The kernel with terms of rows in a step that is about to be folded.

    Args:
        kernel: which outputs the same before and after.
        name: of the step; nothing moves where weights are not measured from one row value.
        stays: whether a factor can be laid out before the stream.
    """
    found = _exponent(kernel, name)
    if found is None or kernel.gauges:
        return kernel
    exponent, row, weights = found

    def movable(term: Expr) -> bool:
        return all(map(stays, factors(term)))

    values = {step.name: step for step in kernel.steps if _is_row_value(step, kernel)}
    terms = [term for sign, part in signed_terms(row) for term in _opened(sign, part, values, movable)]
    moved = [(sign, term) for sign, term in terms if movable(term)]
    left = [(sign, _number_last(term, kernel)) for sign, term in terms if not movable(term)]
    if not moved or not left:
        return kernel
    scale = times(factor for factor in factors(exponent.body) if name not in names_read(factor))
    more = [(-sign, over(term, scale)) for sign, term in moved]

    def changed(step: Einsum) -> Einsum:
        if step.name == name:
            return replace(step, body=signed_sum([*signed_terms(step.body), *more]))
        if step.name in weights:
            return replace(step, body=build.exp(build.sub(build.read(exponent.name, exponent.axes), signed_sum(left))))
        return step

    steps = tuple(map(changed, kernel.steps))
    needed = {*kernel.outputs, *(tensor for step in steps for tensor in step_reads(step))}
    return replace(kernel, steps=tuple(step for step in steps if step.name not in values or step.name in needed))


def _exponent(kernel: Kernel, name: str) -> tuple[Einsum, Expr, frozenset[str]] | None:
    """The only step that reads a step, if it is a multiple of it that nothing but weights needs, all measured from one row value; that
    value, and the weights."""
    exponents = [step for step in kernel.steps if name in step_reads(step)]
    if len(exponents) != 1 or name in kernel.outputs or read_by_others(exponents[0], kernel):
        return None
    (exponent,) = exponents
    rows = {step.name: row for step in kernel.steps if (row := exponent_row(step, exponent)) is not None}
    carriers = [factor for factor in factors(exponent.body) if name in names_read(factor)]
    multiple = len(carriers) == 1 and isinstance(carriers[0], Read)
    return (exponent, next(iter(rows.values())), frozenset(rows)) if multiple and len(set(rows.values())) == 1 else None


def _is_row_value(step: Einsum, kernel: Kernel) -> bool:
    """Whether a step computes a value of each row, from nothing but what it reads there."""
    return step.reduce is None and step.where is None and not {kernel.resident, kernel.streamed} <= set(step.axes)


def _opened(sign: int, part: Expr, values: dict[str, Einsum], movable: Callable[[Expr], bool]) -> list[tuple[int, Expr]]:
    """A term; in its place those of the row value that it reads, if one of them can move."""
    step = values.get(part.tensor) if isinstance(part, Read) else None
    terms = signed_terms(step.body, sign) if step is not None and part == build.read(step.name, step.axes) else []
    return terms if any(movable(term) for _, term in terms) else [(sign, part)]


def _number_last(term: Expr, kernel: Kernel) -> Expr:
    """A product with what changes from turn to turn behind what does not."""

    def moves(factor: Expr) -> bool:
        return any(isinstance(node, Index | Start) and node.axis == kernel.streamed for node in walk(factor))

    return times(sorted(factors(term), key=moves))

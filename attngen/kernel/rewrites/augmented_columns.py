"""Loop-invariant row terms of a weight join its bias dot as further columns.

w[m,n] = exp(x_tile[m,n] * c - (lse[m] - x_row[m]))      x_row[m] = slope * (start(n) - start(m)) - slope * offset(m)
x_tile'[m,n] = x_tile[m,n] - slope / c * offset(m)       w[m,n] = exp(x_tile'[m,n] * c - (lse[m] - slope * (start(n) - start(m))))

A further column of a narrow dot is free, and the rest varies along the loop as a scalar only: it takes one FMA per row in base 2. A running
maximum needs the whole exponent, so nothing moves then.
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


def with_row_terms(kernel: Kernel, name: str, is_invariant: Callable[[Expr], bool]) -> Kernel:
    """The kernel with row terms moved into the step that becomes a bias dot; its outputs are the same.

    Args:
        kernel: unchanged unless all weights of the step subtract one row value.
        name: that of the step.
        is_invariant: whether a factor is loop-invariant, so that the prologue can lay it out.
    """
    found = _exponent(kernel, name)
    if found is None or kernel.gauges:
        return kernel
    exponent, row, weights = found

    def movable(term: Expr) -> bool:
        return all(map(is_invariant, factors(term)))

    values = {step.name: step for step in kernel.steps if _is_row_value(step, kernel)}
    terms = [term for sign, part in signed_terms(row) for term in _opened(sign, part, values, movable)]
    moved = [(sign, term) for sign, term in terms if movable(term)]
    left = [(sign, _variant_last(term, kernel)) for sign, term in terms if not movable(term)]
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
    """The only reader of a step, the row value and the weights, if the reader is a multiple of the step and read only by weights that
    subtract one row value."""
    exponents = [step for step in kernel.steps if name in step_reads(step)]
    if len(exponents) != 1 or name in kernel.outputs or read_by_others(exponents[0], kernel):
        return None
    (exponent,) = exponents
    rows = {step.name: row for step in kernel.steps if (row := exponent_row(step, exponent)) is not None}
    carriers = [factor for factor in factors(exponent.body) if name in names_read(factor)]
    multiple = len(carriers) == 1 and isinstance(carriers[0], Read)
    return (exponent, next(iter(rows.values())), frozenset(rows)) if multiple and len(set(rows.values())) == 1 else None


def _is_row_value(step: Einsum, kernel: Kernel) -> bool:
    """Whether a step is a pointwise row value without a mask."""
    return step.reduce is None and step.where is None and not {kernel.resident, kernel.streamed} <= set(step.axes)


def _opened(sign: int, part: Expr, values: dict[str, Einsum], movable: Callable[[Expr], bool]) -> list[tuple[int, Expr]]:
    """A term, or the terms of the row value that it reads if one of them is movable."""
    step = values.get(part.tensor) if isinstance(part, Read) else None
    terms = signed_terms(step.body, sign) if step is not None and part == build.read(step.name, step.axes) else []
    return terms if any(movable(term) for _, term in terms) else [(sign, part)]


def _variant_last(term: Expr, kernel: Kernel) -> Expr:
    """A product with its loop-variant factors last."""

    def is_variant(factor: Expr) -> bool:
        return any(isinstance(node, Index | Start) and node.axis == kernel.streamed for node in walk(factor))

    return times(sorted(factors(term), key=is_variant))

"""Joined dots: dots that are added become one step, so that they share an accumulator and a scale can be folded out of it.

x[m,n] = (s[m,n] + t[m,n]) * c                ->      s_total[m,n] = s[m,n] + t[m,n]
                                                      x[m,n]       = s_total[m,n] * c

Takes and gives a kernel with the same outputs. A dot with another reader is not joined.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from attngen.ir import build
from attngen.ir.algebra import signed_sum, signed_terms
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.traverse import occurrences, rewrite, step_reads
from attngen.kernel.partition import Kernel, addends
from attngen.kernel.rewrites.note import Note


def join_dots(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel with sums of dots as steps of their own, and a note for each such sum."""
    names, notes = Names(kernel.cascade), list[Note]()
    uses = Counter(name for step in kernel.steps for name in step_reads(step))
    steps: list[Einsum] = []
    for step in kernel.steps:
        if step.reduce is None and not addends(step):
            step, totals, more = _joined(step, kernel, names, uses)
            steps += totals
            notes += more
        steps.append(step)
    return replace(kernel, steps=tuple(steps)), tuple(notes)


def _joined(step: Einsum, kernel: Kernel, names: Names, uses: Counter[str]) -> tuple[Einsum, list[Einsum], list[Note]]:
    products = _products(step, kernel)
    inside: Counter[str] = Counter()
    for node, count in occurrences(step.body).items():
        if isinstance(node, Read):
            inside[node.tensor] += count
    totals: dict[Expr, Einsum] = {}
    notes: dict[str, Note] = {}

    def rule(node: Expr) -> Expr | None:
        """Bottom-up, so a longer sum replaces the shorter one that it contains."""
        if not isinstance(node, Apply) or node.op != "add":
            return None
        shorter = {term: totals.pop(term) for _, term in signed_terms(node) if term in totals}
        terms = [item for sign, term in signed_terms(node) for item in _opened(sign, term, shorter)]
        mine = [(sign, term) for sign, term in terms if sign > 0 and term in products]
        if len(mine) < 2:
            return None
        first, *_ = found = [term.tensor for _, term in mine if isinstance(term, Read)]
        shared = [name for name in found if uses[name] > 1 or inside[name] > 1 or name in kernel.outputs]
        if shared:
            notes[first] = Note(first, kernel.role, False, f"{', '.join(shared)} is needed by itself")
            return None
        name = next(iter(shorter.values())).name if shorter else names.fresh(f"{first}_total")
        read = build.read(name, step.axes)
        totals[read] = Einsum(read.tensor, step.axes, signed_sum(mine), loc=step.loc)
        notes[first] = Note(first, kernel.role, True, "its sum with other products is formed in one accumulator")
        return signed_sum([(1, read), *(item for item in terms if item not in mine)])

    return replace(step, body=rewrite(step.body, rule)), list(totals.values()), list(notes.values())


def _opened(sign: int, term: Expr, totals: dict[Expr, Einsum]) -> list[tuple[int, Expr]]:
    """The terms of a total, or the term itself."""
    return signed_terms(totals[term].body, sign) if term in totals else [(sign, term)]


def _products(step: Einsum, kernel: Kernel) -> set[Expr]:
    """Reads of dots over features, at the axes of a step."""
    here = {axis for axis in (kernel.resident, kernel.streamed) if axis is not None}
    sums = [other for other in kernel.steps if other.reduce == "sum" and here <= set(other.axes) and other.axes == step.axes]
    return {Read(other.name, tuple(Index(axis) for axis in other.axes)) for other in sums}

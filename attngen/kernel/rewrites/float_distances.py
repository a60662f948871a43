"""Float distances: an integer distance of positions is converted to float per position, not per pair.

dx[m,n] * (n - m)    ->    dx[m,n] * (to_float(offset(n)) + to_float(start(n) - m))

One float addition replaces an integer subtraction and a conversion, which has a fraction of its throughput. Both forms are exact below
2**24, and round alike above. Takes and gives a kernel with the same outputs.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.ir import build
from attngen.ir.algebra import linear
from attngen.ir.expr import Apply, Expr, Index, Offset, Start, kind_of
from attngen.ir.traverse import free_axes, rewrite
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import Note

_ARITHMETIC = frozenset(("add", "sub", "mul", "div", "min", "max"))


def float_distances(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel without conversions of whole tiles, and a note for each changed step."""
    notes: list[Note] = []
    pair = {kernel.resident, kernel.streamed}

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Apply) or node.op not in _ARITHMETIC or kind_of(node) != "float":
            return None
        args = tuple(_floated(arg, kernel) if kind_of(arg) == "int" and pair <= set(free_axes(arg)) else None for arg in node.args)
        if not any(args):
            return None
        return Apply(node.op, tuple(old if new is None else new for old, new in zip(node.args, args, strict=True)))

    steps = tuple(replace(step, body=rewrite(step.body, rule)) if kernel.streamed is not None else step for step in kernel.steps)
    for before, after in zip(kernel.steps, steps, strict=True):
        if before.body != after.body:
            notes.append(Note(before.name, kernel.role, True, "a conversion less for each pair"))
    return replace(kernel, steps=steps), tuple(notes)


def _floated(expr: Expr, kernel: Kernel) -> Expr | None:
    """An integer of a pair as a sum of two floats, one per side; None if it does not separate."""
    if isinstance(expr, Apply) and expr.op in ("abs", "neg"):
        inner = _floated(expr.args[0], kernel)
        return None if inner is None else build.apply(expr.op, inner)
    terms = linear(expr)
    streamed = {term: factor for term, factor in terms.items() if kernel.streamed in free_axes(term)}
    if list(streamed) != [Index(kernel.streamed or "")] or not all(float(factor).is_integer() for factor in terms.values()):
        return None
    (factor,) = (int(value) for value in streamed.values())
    row: Expr = build.mul(build.const(factor), Start(kernel.streamed or ""))
    for term, count in terms.items():
        if term not in streamed:
            part = build.mul(build.const(abs(int(count))), term)
            row = build.apply("add" if count > 0 else "sub", row, part)
    offset = build.mul(build.const(abs(factor)), Offset(kernel.streamed or ""))
    return build.apply("add" if factor > 0 else "sub", build.apply("to_float", row), build.apply("to_float", offset))

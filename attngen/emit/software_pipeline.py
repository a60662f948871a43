"""The pipelined form of a stream: with PIPE, the products of the next tile are formed beside the weights of this one (`prefetchable_dots`).

    ahead_n = start_n + BLOCK_N if PIPE else start_n
    if not LATE:
        s_formed = forward_products(q, k_rows, ..., ahead_n, ...)
    s = s_next if PIPE else s_formed
    m_i_new = tl.maximum(m_i, tl.max(s, 1))
    if LATE:
        s_formed = forward_products(q, k_rows, ..., ahead_n, ...)
    s_next = s_formed

Their place in the text is for the assembler: it decides by its own estimates whether exponentials run beside products, and with LATE the
maximum is taken while the product of the weights before is still being formed.

Products that share an accumulator go ahead one after the other with LATE alone. Without it the tile before is under way yet when they
begin, and the assembler would put everything in order; there they are formed apart and added by the arithmetic units (EARLY). Masks are
taken from differences there: after comparisons the assembler leaves no exponential beside the products.

What comes after the last tile is formed as well and never used; it reads nothing behind the end of a tensor.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attngen.emit.context import FunctionContext
from attngen.emit.format import WIDTH
from attngen.emit.identifiers import Code, folded, identifier
from attngen.emit.segments import Segments, first_tile, next_tile
from attngen.ir.cascade import Einsum
from attngen.ir.traverse import step_reads

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


_LOADS = re.compile(r"\b(tl\.load|fetch_vector)\(")


class PrefetchedDots:
    """The steps of one kernel that go ahead, and their statements."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.names = lowering.facts.prefetched
        self.place = 0
        self.late: int | None = None
        self.lines: list[Code] = []
        self.apart: list[Code] = []

    def step(self, step: Einsum) -> None:
        """Write a step; its statements leave the turn, but for those that only tiles under masks need."""
        writer = self.lowering.writer
        known, section, whole = dict(writer.known), writer.sections.tile, writer.whole_tiles
        writer.sections.tile, writer.whole_tiles = [], "FULL"
        self.lowering.step(step)
        written = writer.sections.tile
        if not self.lines:
            self.place = len(section)
        self.lines += [code for code, walked in written if walked is None]
        writer.sections.tile = section + [(code, walked) for code, walked in written if walked is not None]
        writer.known, writer.whole_tiles = known, whole

    def after_maximum(self) -> None:
        """Remember the place behind the first maximum of a turn: with LATE, products are formed there."""
        if self.names and self.late is None:
            self.late = len(self.lowering.writer.sections.tile)

    def behind_loads(self, results: list[str]) -> int:
        """Where a turn forms its products: behind what it loads for their sake, for the assembler moves no load past a wait for them."""
        tile = self.lowering.writer.sections.tile
        uses = (i for i, (code, _) in enumerate(tile) if i >= self.place and _mentions(code, results))
        loads = [i + 1 for i in range(self.place, next(uses, self.place)) if _LOADS.search(tile[i][0])]
        return max(loads, default=self.place)

    @property
    def flags(self) -> tuple[Code, ...]:
        """The constants that choose a form."""
        names = ("PIPE", *(("LATE",) if self.late is not None else ())) if self.names else ()
        return tuple(map(Code, names))

    def results(self) -> list[str]:
        """Names of the values that the rest of the turn reads."""
        rest = [step for step in self.lowering.kernel.steps if step.name not in self.names]
        read = {name for step in rest for name in step_reads(step)}
        steps = self.lowering.writer.steps
        return list(dict.fromkeys(str(steps[name].code) for name in self.names if name in read and name in steps))

    def function(self, segments: Segments) -> FunctionContext | None:
        """The function that forms the products, and its calls in the kernel; None if nothing goes ahead."""
        if not self.names:
            return None
        kernel, writer = self.lowering.kernel, self.lowering.writer
        streamed = kernel.streamed or ""
        results = self.results()
        inside: list[Code] = []
        if any(f"ok_{streamed}" in line for line in self.lines):
            writer.length(streamed)
            inside.append(Code(f"ok_{streamed} = start_{streamed} + range_{streamed} < len_{streamed}"))
        params = free([*self.lines, *inside], {"tl", "FULL", f"start_{streamed}"})
        name = identifier(f"{kernel.role}_products")
        prefetched = {result: writer.name(f"{result}_next") for result in results}
        formed = {result: writer.name(f"{result}_formed") for result in results}

        values = [param for param in params if not param.isupper()]
        constants = [param for param in params if param.isupper()]

        def call(start: str, full: str) -> str:
            return f"{name}({', '.join((*values, start, *constants, full))})"

        def form(full: str) -> str:
            return f"{', '.join(formed.values())} = {call(f'ahead_{streamed}', full)}"

        lines, position = next_tile(segments)
        whole = "False" if writer.whole_tiles == "False" else f"{writer.whole_tiles} and not PIPE"
        kept = ["if PIPE:", *(f"    {prefetched[result]} = {formed[result]}" for result in results)]
        first = [form(whole)] if self.late is None else ["if not LATE:", f"    {form(whole)}"]
        turn = [
            f"ahead_{streamed} = start_{streamed}",
            "if PIPE:",
            *(f"    {line}" for line in lines),
            f"    ahead_{streamed} = {position}",
            *first,
            *(f"{result} = {prefetched[result]} if PIPE else {formed[result]}" for result in results),
        ]
        if self.apart:
            turn += ["if EARLY:", *(f"    {line}" for line in self.apart)]
        if self.late is None:
            turn += kept
        else:
            late = ["if LATE:", f"    {form('False')}", *kept]
            writer.sections.tile[self.late : self.late] = [(Code(line), None) for line in late]
        place = self.behind_loads(results)
        writer.sections.tile[place:place] = [(Code(line), None) for line in turn]
        self.define_early()
        lines, position = first_tile(segments)
        start = [*lines, f"{', '.join(prefetched.values())} = {call(position, 'False')}"]
        writer.sections.init += [Code("if PIPE:  # the first tile"), *(Code(f"    {line}") for line in start)]
        steps = [step for step in kernel.steps if step.name in self.names]
        return FunctionContext(
            name=name,
            params=(*map(Code, (*values, f"start_{streamed}")), *(Code(f"{param}: tl.constexpr") for param in (*constants, "FULL"))),
            title=Code(f"What the tile of {streamed} that starts at `start_{streamed}` is multiplied to."),
            note=tuple(part for step in steps for part in folded(str(step), WIDTH - 4)),
            body=(*inside, *self.lines),
            returned=Code(", ".join(results)),
        )

    def define_early(self) -> None:
        """Put the constant for the form without LATE in front, where a statement reads it."""
        sections = self.lowering.writer.sections
        if any(_mentions(code, ["EARLY"]) for code in (*self.lines, *(code for code, _ in sections.tile))):
            early = f"EARLY: tl.constexpr = {' and not '.join(self.flags)}  # the next products are formed before the maximum"
            sections.prologue.insert(0, Code(early))


def _mentions(code: Code, names: Iterable[str]) -> bool:
    return any(re.search(rf"\b{name}\b", code) for name in names)


def free(lines: Iterable[Code], known: set[str]) -> list[str]:
    """Names that statements read and neither assign nor know."""
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)} | called | known
    return [name for name in dict.fromkeys(node.id for node in names) if name not in assigned]

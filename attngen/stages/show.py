"""What each step of the pipeline gives, as text: cascades in their own notation, kernels, facts and choices line by line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import cast

from attngen.alternates.known_alternates import ALTERNATES
from attngen.emit.kernel_text import Lowered
from attngen.facts.kernel_facts import KernelFacts, kernel_facts
from attngen.ir.printer import print_expr
from attngen.kernel.kernel import Kernel
from attngen.schedule.choose import Choice
from attngen.tile.nodes import TileProgram
from attngen.tile.program_text import print_program
from attngen.transform.autodiff.differentiate import Backward
from attngen.transform.streaming.streaming import Streamed


def show(value: object) -> str:
    """The result of a step."""
    match value:
        case (Kernel(), Lowered() as lowered):
            return "\n".join(_lowered_lines(lowered))
        case tuple():
            return "\n".join(show(item) for item in cast("tuple[object, ...]", value))
        case Streamed() | Backward():
            return str(value.cascade)
        case Kernel():
            return "\n".join(summary(kernel_facts(value)).lines(full=True))
        case KernelFacts():
            return "\n".join(facts_lines(value))
        case Choice():
            return "\n".join(value.lines())
        case TileProgram():
            return print_program(value)
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """One kernel: the axis of its resident tile, its loop axis, its grid, what a program sums over, its steps, the tiles it visits."""

    role: str
    resident: str
    streamed: str | None
    grid: tuple[str, ...]
    sums_over: tuple[str, ...]
    stores: tuple[str, ...]
    steps: tuple[str, ...]
    visits: str

    def lines(self, *, full: bool) -> list[str]:
        """As text; `full` has the steps too."""
        loops = [*self.sums_over, *([self.streamed] if self.streamed is not None else [])]
        loop = f"; loop over {', '.join(loops)}" if loops else ""
        lines = [f"{self.role}: {', '.join(self.stores)}; parallel over {', '.join(self.grid)} and tiles of {self.resident}{loop}"]
        lines += [f"  {self.visits}"] if self.streamed is not None else []
        return [*lines, *(f"  {step}" for step in self.steps)] if full else lines


def summary(facts: KernelFacts) -> KernelSummary:
    """What a reader wants to know of a kernel."""
    kernel = facts.kernel
    return KernelSummary(
        role=kernel.role,
        resident=kernel.resident,
        streamed=kernel.streamed,
        grid=kernel.grid,
        sums_over=kernel.loops,
        stores=kernel.outputs,
        steps=tuple(str(step) for step in kernel.steps),
        visits=facts.visits,
    )


def facts_lines(facts: KernelFacts) -> list[str]:
    """What is known of a kernel, a line for each fact that there is."""
    work = {item.name: getattr(facts.work, item.name) for item in fields(facts.work) if item.name != "role"}
    lines = {
        "loop": facts.visits,
        "guards": ", ".join(f"{name} where {print_expr(guard)}" for name, guard in facts.guards.items() if guard is not None),
        "zero where their guard fails": ", ".join(facts.dots_to_zero),
        "prefetched dots": ", ".join(facts.prefetched),
        "rows of matrices": ", ".join(facts.dense_rows),
        **{f"no {ALTERNATES[flag].title}": why for flag, why in facts.ineligible.items()},
        "work": ", ".join(f"{name}={_plain(value)}" for name, value in work.items() if value),
    }
    return [f"{facts.role}:", *(f"  {what}: {text}" for what, text in lines.items() if text)]


def _lowered_lines(lowered: Lowered) -> list[str]:
    """The signature of a kernel, and its statements by section."""
    context = lowered.context
    sections = {
        "program": context.place,
        "prologue": context.prologue,
        "carried": context.init,
        "loop over the grid": context.loop,
        "iteration": context.tile,
        "epilogue": context.epilogue,
        "stores": context.stores,
    }
    lines = [f"{context.name}({', '.join((*context.params, *context.constexprs, *context.flags))}):"]
    for title, statements in sections.items():
        lines += [f"  {title}:", *(f"    {line}" for line in statements)] if statements else []
    return lines


def _plain(value: object) -> str:
    return ".".join(map(str, cast("tuple[object, ...]", value))) if isinstance(value, tuple) else str(value)

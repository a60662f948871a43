"""The two walks of a stream: over full tiles, which need no masks, then over tiles under masks.

    begins = (full_begin, begin)                              for segment in tl.static_range(2):
    ends = (full_end, end - full_length)                          for turn_n in range(begins[segment], ends[segment], BLOCK_N):

The full tiles are a hole in the second walk. Where they may have masked tiles on both sides, it jumps over them:

    start_n = turn_n
    if segment == 1:
        start_n += tl.where(turn_n >= full_begin, full_length, 0)

So a kernel holds its loop twice, whatever the mask, and no accumulator passes through three loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.analysis.mask import Ranges, stream_ranges
from attngen.emit.names import Code
from attngen.emit.sections import Stage, Value
from attngen.emit.writer import Writer
from attngen.ir import build
from attngen.ir.expr import Expr, Read
from attngen.ir.traverse import rewrite
from attngen.transform.partition import Kernel

FULL = 0
"""The number of the walk over full tiles, where there is one."""


@dataclass(frozen=True, slots=True)
class Segments:
    """How a stream divides into tiles with and without masks.

    Attributes:
        ranges: what the mask allows.
        count: of walks: 2, or 1 where no tile is ever full.
    """

    ranges: Ranges
    count: int

    @property
    def full(self) -> int | None:
        """The number of the walk over full tiles."""
        return FULL if self.count == 2 else None

    @property
    def jumps(self) -> bool:
        """Whether the walk under masks passes over the full tiles."""
        return self.count == 2 and not (build.is_const(self.ranges.all_lo, 0) and build.is_const(self.ranges.some_lo, 0))

    @property
    def note(self) -> Code:
        """What the walks are, for the reader of the kernel."""
        return Code("  # full, then under masks" if self.count == 2 else "")


def segments_of(kernel: Kernel) -> Segments | None:
    """The walks of a kernel; None where nothing streams."""
    if kernel.streamed is None:
        return None
    some = stream_ranges(kernel.some, kernel.streamed, kernel.resident)
    every = some if kernel.every == kernel.some else stream_ranges(kernel.every, kernel.streamed, kernel.resident)
    ranges = Ranges(kernel.streamed, some.some_lo, some.some_hi, every.all_lo, every.all_hi)
    return Segments(ranges, 1 if build.is_const(ranges.all_hi, 0) else 2)


def bounds(writer: Writer, segments: Segments) -> tuple[Stage, list[Code]]:
    """Where each walk begins and ends, in whole tiles but for the end of the last, and when that is known."""
    ranges, resident = segments.ranges, writer.kernel.resident
    block = f"BLOCK_{ranges.stream.upper()}"
    writer.length(ranges.stream)
    for name in ("first", "last"):
        writer.known[(Read(name, (), "int"), False)] = Value(Code(f"{name}_{resident}"), (), Stage.PROLOGUE)
    exprs = [ranges.some_lo, ranges.some_hi, ranges.all_lo, ranges.all_hi]
    stage = max(writer.stage_of(expr) for expr in exprs)
    before, writer.stage = writer.stage, stage
    lo, full_hi = (_bound(writer, _renamed(expr, resident), 10) for expr in (ranges.some_lo, ranges.all_hi))
    hi, full_lo = (_bound(writer, _renamed(expr, resident), 0) for expr in (ranges.some_hi, ranges.all_lo))
    writer.stage = before
    lines = [f"begin = {lo} // {block} * {block}" if lo != "0" else "begin = 0", f"end = {hi}"]
    last_full = f"{full_hi} // {block} * {block}"
    if segments.count == 1:
        lines += ["begins = (begin,)", "ends = (end,)"]
    elif not segments.jumps:
        lines += [f"full_end = tl.maximum({last_full}, begin)", "begins = (begin, full_end)", "ends = (full_end, end)"]
    else:
        lines += [
            f"full_begin = tl.maximum(tl.cdiv({full_lo}, {block}) * {block}, begin)",
            f"full_length = tl.maximum({last_full} - full_begin, 0)",
            "begins = (full_begin, begin)",
            "ends = (full_begin + full_length, end - full_length)",
        ]
    return stage, [Code(line) for line in lines]


def turn(segments: Segments) -> Code:
    """The variable of the loop."""
    return Code(f"{'turn' if segments.jumps else 'start'}_{segments.ranges.stream}")


def offsets(segments: Segments) -> list[tuple[Code, bool]]:
    """Statements at the head of a turn, with a flag for "only under masks": where its tile starts, and its positions."""
    streamed = segments.ranges.stream
    lines: list[tuple[Code, bool]] = []
    if segments.jumps:
        lines.append((Code(f"start_{streamed} = turn_{streamed}"), False))
        lines.append((Code(f"start_{streamed} += tl.where(turn_{streamed} >= full_begin, full_length, 0)"), True))
    lines.append((Code(f"offs_{streamed} = start_{streamed} + range_{streamed}"), False))
    lines.append((Code(f"ok_{streamed} = offs_{streamed} < len_{streamed}"), False))
    return lines


def guarded(lines: list[tuple[Code, bool]], segments: Segments) -> tuple[Code, ...]:
    """Statements of one turn; those that only masks need stand under one condition a run."""
    if segments.full is None:
        return tuple(code for code, _ in lines)
    result: list[Code] = []
    inside = False
    for code, partial in lines:
        if partial and not inside:
            result.append(Code(f"if segment != {segments.full}:"))
        result.append(Code(f"    {code}") if partial else code)
        inside = partial
    return tuple(result)


def _bound(writer: Writer, expr: Expr, precedence: int) -> str:
    """The text of a bound; a long one is computed beforehand and named."""
    text = writer.printer.operand(expr, (), precedence)
    return text if len(text) <= 36 else writer.assign(writer.name("bound"), expr, (), writer.stage)


def _renamed(expr: Expr, resident: str) -> Expr:
    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Read) and node.tensor in ("first", "last") and not node.at:
            return Read(f"{node.tensor}_{resident}", (), "int")
        return None

    return rewrite(expr, rule)

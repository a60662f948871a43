"""The two walks of a stream: over full tiles, which need no masks, then over tiles under masks.

    begins = (full_begin, begin)                              for segment in tl.static_range(2):
    ends = (full_end, end - full_length)                          for turn_n in range(begins[segment], ends[segment], BLOCK_N):

The full tiles are a hole in the second walk. Where they may have masked tiles on both sides, it jumps over them:

    start_n = turn_n
    if segment != 0:
        start_n += tl.where(start_n >= full_begin, full_length, 0)

Where the mask has several pieces, as the first keys and a window have, both walks jump from each piece to the next one as well, and each
piece begins behind the one before it. So a kernel holds its loop twice, whatever the mask, and no accumulator passes through three loops.
Where the mask has no closed form the walks go over a list of tiles instead (`listing`):

    start_n = tl.load(list_start + turn_n).to(tl.int32) * BLOCK_N
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.analysis.affine import FIRST, LAST
from attngen.analysis.kv_ranges import KvRanges
from attngen.emit.identifiers import Code
from attngen.emit.placement import FULL, MASKED
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.traverse import names_read


@dataclass(frozen=True, slots=True)
class Segments:
    """How a stream divides into tiles with and without masks.

    Attributes:
        ranges: what the mask allows.
        count: of walks: 2, or 1 where no tile is ever full.
        listed: whether they go over a list of tiles.
    """

    ranges: KvRanges
    count: int
    listed: bool = False

    @property
    def full(self) -> int | None:
        """The number of the walk over full tiles."""
        return FULL if self.count == 2 else None

    @property
    def jumps(self) -> bool:
        """Whether a walk passes over tiles: the full ones, or what lies between two pieces."""
        first = self.ranges.pieces[0]
        starts_full = build.is_const(first.must.lo, 0) and build.is_const(first.may.lo, 0)
        return not self.listed and (len(self.ranges.pieces) > 1 or (self.count == 2 and not starts_full))

    @property
    def grows(self) -> bool:
        """Whether later tiles meet more of the stream: under a causal mask the last rows have the most to do."""
        tile = {FIRST.tensor, LAST.tensor}
        last = self.ranges.pieces[-1].may
        return bool(tile & set(names_read(last.hi))) and not tile & set(names_read(last.lo))

    @property
    def note(self) -> Code:
        """What the walks are, for the reader of the kernel."""
        return Code("  # full, then under masks" if self.count == 2 else "")


def segments_of(facts: KernelFacts) -> Segments | None:
    """The walks of a kernel; None where nothing streams."""
    if facts.ranges is None:
        return None
    unmasked = facts.listed or not (facts.ranges.masked or facts.kernel.combines_splits)
    return Segments(facts.ranges, 2 if unmasked else 1, facts.listed)


def bound_names(segments: Segments) -> list[str]:
    """What the bounds of all pieces are called."""
    full = ("full_begin", "full_length") if segments.jumps else ("full_end",)
    names = ("begin", *(full if segments.count == 2 else ()), "end")
    return [of_piece(name, i) for i in range(len(segments.ranges.pieces)) for name in names]


def of_piece(name: str, i: int) -> str:
    """A bound of the piece number `i`."""
    return name if i == 0 else f"{name}_{i + 1}"


def turn(segments: Segments) -> Code:
    """The variable of the loop."""
    return Code(f"{'turn' if segments.jumps or segments.listed else 'start'}_{segments.ranges.stream}")


def walk(segments: Segments) -> Code:
    """What it runs over, as the arguments of a range."""
    ends = "begins[segment], ends[segment]"
    return Code(ends if segments.listed else f"{ends}, BLOCK_{segments.ranges.stream.upper()}")


def turns(segments: Segments, step: str = "item % steps", walk: str = "segment") -> tuple[Code, Code]:
    """The number of turns of a walk, and the variable in the turn number `step`."""
    block, length = f"BLOCK_{segments.ranges.stream.upper()}", f"ends[{walk}] - begins[{walk}]"
    if segments.listed:
        return Code(length), Code(f"begins[{walk}] + {step}")
    return Code(f"tl.cdiv({length}, {block})"), Code(f"begins[{walk}] + {step} * {block}")


def offsets(segments: Segments) -> list[tuple[Code, int | None]]:
    """Statements at the head of a turn, each with the walk it belongs to, None for both: where its tile starts, and its positions."""
    streamed = segments.ranges.stream
    lines: list[tuple[Code, int | None]] = []
    if segments.jumps:
        lines.append((Code(f"start_{streamed} = turn_{streamed}"), None))
        for walked, place, distance in _jumps(segments):
            lines.append((Code(_jump(f"start_{streamed}", place, distance)), walked))
    if segments.listed:
        lines.append((Code(f"start_{streamed} = tl.load(list_start + turn_{streamed}).to(tl.int32) * BLOCK_{streamed.upper()}"), None))
    lines.append((Code(f"offs_{streamed} = start_{streamed} + range_{streamed}"), None))
    lines.append((Code(f"ok_{streamed} = offs_{streamed} < len_{streamed}"), None))
    return lines


def next_tile(segments: Segments) -> tuple[list[str], str]:
    """Statements that find the tile of the next turn, whichever walk that belongs to, and where it starts."""
    streamed = segments.ranges.stream
    block = f"BLOCK_{streamed.upper()}"
    if not segments.jumps and not segments.listed:
        return [], f"start_{streamed} + {block}"
    name = f"next_{streamed}"
    after = f"turn_{streamed} + {1 if segments.listed else block}"
    if segments.listed:
        lines = [f"{name} = {after}", f"if segment == {FULL}:", f"    {name} = tl.where({name} < ends[0], {name}, begins[1])"]
        return [*lines, *_listed_tile(name, streamed)], name
    if segments.count == 1:
        return [f"{name} = {after}", *_jumped(segments, name, MASKED)], name
    full = [*_jumped(segments, name, FULL), f"{name} = tl.where({after} < ends[0], {name}, masked_{streamed})"]
    masked = _jumped(segments, name, MASKED)
    return [
        f"{name} = {after}",
        f"if segment == {FULL}:",
        *(f"    {line}" for line in full),
        "else:",
        *(f"    {line}" for line in masked),
    ], name


def first_tile(segments: Segments) -> tuple[list[str], str]:
    """Statements that find the first tile of all, and where it starts."""
    streamed = segments.ranges.stream
    name, masked = f"next_{streamed}", f"masked_{streamed}"
    if not segments.jumps and not segments.listed:
        return [], "begins[0]"
    if segments.listed:
        return [f"{name} = tl.where(begins[0] < ends[0], begins[0], begins[1])", *_listed_tile(name, streamed)], name
    if segments.count == 1:
        return [f"{name} = begins[0]", *_jumped(segments, name, MASKED)], name
    lines = [f"{masked} = begins[1]", *_jumped(segments, masked, MASKED), f"{name} = begins[0]", *_jumped(segments, name, FULL)]
    return [*lines, f"{name} = tl.where(begins[0] < ends[0], {name}, {masked})"], name


def _jumped(segments: Segments, name: str, walked: int) -> list[str]:
    """Statements that take a turn of a walk to the position of its tile."""
    return [_jump(name, place, distance) for own, place, distance in _jumps(segments) if own == walked]


def _jump(start: str, place: str, distance: str) -> str:
    """A statement that passes over what no walk visits."""
    return f"{start} += tl.where({start} >= {place}, {distance}, 0)"


def _listed_tile(name: str, streamed: str) -> list[str]:
    """Statements that take a place in the list to the position of its tile; behind the list that is 0."""
    found = f"tl.load(list_start + {name}, mask={name} < list_length, other=0)"
    return [f"{name} = {found}", f"{name} = {name}.to(tl.int32) * BLOCK_{streamed.upper()}"]


def _jumps(segments: Segments) -> list[tuple[int, str, str]]:
    """Walk, place and distance of each jump, in the order of the stream."""
    pieces = range(len(segments.ranges.pieces))
    full = [(FULL, of_piece("full_end", i), of_piece("full_gap", i)) for i in pieces[:-1]]
    masked: list[tuple[int, str, str]] = []
    for i in pieces:
        if segments.count == 2:
            masked.append((MASKED, of_piece("full_begin", i), of_piece("full_length", i)))
        if i + 1 in pieces:
            masked.append((MASKED, of_piece("end", i), of_piece("gap", i)))
    return [*full, *masked] if segments.count == 2 else masked


def guarded(lines: list[tuple[Code, int | None]], segments: Segments) -> tuple[Code, ...]:
    """Statements of one turn; those of one walk stand under one condition a run."""
    if segments.full is None:
        return tuple(code for code, _ in lines)
    result: list[Code] = []
    inside: int | None = None
    for code, walked in lines:
        if walked is not None and walked != inside:
            result.append(Code(f"if segment {'==' if walked == FULL else '!='} {FULL}:"))
        result.append(code if walked is None else Code(f"    {code}"))
        inside = walked
    return tuple(result)

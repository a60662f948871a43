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

    start_n = tl.load(list_start + turn_n) * BLOCK_N
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from attngen.analysis.bounds import FIRST, LAST
from attngen.analysis.mask import Ranges, describe, walked_ranges
from attngen.analysis.spans import ZERO, TileValue
from attngen.emit.context import BoundsContext
from attngen.emit.layout import WIDTH
from attngen.emit.listing import is_listable, listing_kernel, row_lines, stage_of_rows
from attngen.emit.names import Code, folded, identifier
from attngen.emit.sections import FULL, MASKED, Stage, Value
from attngen.emit.writer import Writer
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Extent, Read
from attngen.ir.traverse import names_read, rewrite
from attngen.transform.partition import Kernel


@dataclass(frozen=True, slots=True)
class Segments:
    """How a stream divides into tiles with and without masks.

    Attributes:
        ranges: what the mask allows.
        count: of walks: 2, or 1 where no tile is ever full.
        listed: whether they go over a list of tiles.
    """

    ranges: Ranges
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
        starts_full = build.is_const(first.all.lo, 0) and build.is_const(first.some.lo, 0)
        return not self.listed and (len(self.ranges.pieces) > 1 or (self.count == 2 and not starts_full))

    @property
    def grows(self) -> bool:
        """Whether later tiles meet more of the stream: under a causal mask the last rows have the most to do."""
        tile = {FIRST.tensor, LAST.tensor}
        last = self.ranges.pieces[-1].some
        return bool(tile & set(names_read(last.hi))) and not tile & set(names_read(last.lo))

    @property
    def note(self) -> Code:
        """What the walks are, for the reader of the kernel."""
        return Code("  # full, then under masks" if self.count == 2 else "")


def segments_of(kernel: Kernel) -> Segments | None:
    """The walks of a kernel; None where nothing streams."""
    if kernel.streamed is None:
        return None
    ranges = walked_ranges(*kernel.bounding, kernel.streamed, kernel.resident)
    if not ranges.tight and is_listable(kernel):
        return Segments(ranges, 2, listed=True)
    return Segments(ranges, 1 if ranges.masked else 2)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the walks begin and end.

    Attributes:
        stage: when that is known.
        lines: statements of the kernel.
        function: what they call; None without a mask, where they need nothing but the length.
        values: what each parameter of the function stands for.
    """

    stage: Stage
    lines: tuple[Code, ...]
    function: BoundsContext | None = None
    values: tuple[tuple[Code, Expr], ...] = ()


def bounds(writer: Writer, segments: Segments, known: Iterable[BoundsContext] = ()) -> Bounds:
    """The statements that find the walks of a tile: in whole tiles, but for the end of the last.

    Args:
        writer, segments: of the kernel.
        known: functions of other kernels of the module, of which one may do.
    """
    if segments.listed:
        return _listed(writer)
    ranges, resident = segments.ranges, writer.kernel.resident
    block = Code(f"BLOCK_{ranges.stream.upper()}")
    writer.length(ranges.stream)
    stage = max((_tile_value(writer, name, value) for name, value in ranges.over), default=Stage.PROLOGUE)
    exprs = tuple(rewrite(expr, _of_tile(resident)) for expr in ranges.bounds)
    stage = max(stage, *map(writer.stage_of, exprs))
    leaves = _leaves(writer, exprs)
    names = bound_names(segments)
    body = _scratch(writer, lambda: _rounded(writer, segments, exprs, block))
    ends = [Code(line) for line in _walks(segments)]
    if ranges.bounds == (ZERO, Extent(ranges.stream)) * 2:
        return Bounds(stage, (*body, *ends))
    name = identifier(f"{writer.kernel.role}_bounds")
    title = Code(f"Which tiles along {ranges.stream} a tile along {resident} meets.")
    note = tuple(folded(f"It {describe(ranges)}.", WIDTH - 4))
    results = ", ".join(names)
    returned = Code(results if len(results) < WIDTH - 10 else f"({results})")
    function = BoundsContext(name, (*leaves, Code(f"{block}: tl.constexpr")), title, note, body, returned)
    function = next((other for other in known if replace(other, name=name) == function), function)
    call = f"{function.name}({', '.join((*leaves, block))})"
    return Bounds(stage, (*_unpacked(segments, names, call), *ends), function, tuple(leaves.items()))


def bound_names(segments: Segments) -> list[str]:
    """What the bounds of all pieces are called."""
    full = ("full_begin", "full_length") if segments.jumps else ("full_end",)
    names = ("begin", *(full if segments.count == 2 else ()), "end")
    return [_of_piece(name, i) for i in range(len(segments.ranges.pieces)) for name in names]


def _walks(segments: Segments) -> list[str]:
    """Where both walks begin and end, from the bounds; before that, how far pieces are apart."""
    pieces = range(len(segments.ranges.pieces))
    lines: list[str] = []
    for i in pieces[:-1]:
        begin, full_begin = (_of_piece(name, i + 1) for name in ("begin", "full_begin"))
        lines.append(f"{_of_piece('gap', i)} = {begin} - {_of_piece('end', i)}")
        if segments.count == 2:
            full_end = _of_piece("full_end", i)
            lines.append(f"{full_end} = {_of_piece('full_begin', i)} + {_of_piece('full_length', i)}")
            lines.append(f"{_of_piece('full_gap', i)} = {full_begin} - {full_end}")
    end = _of_piece("end", pieces[-1])
    gaps = "".join(f" - {_of_piece('gap', i)}" for i in pieces[:-1])
    if segments.count == 1:
        return [*lines, "begins = (begin,)", f"ends = ({end}{gaps},)"]
    if not segments.jumps:
        return ["begins = (begin, full_end)", "ends = (full_end, end)"]
    lengths = [_of_piece("full_length", i) for i in pieces]
    full = " + ".join(["full_begin", *lengths])
    return [*lines, "begins = (full_begin, begin)", f"ends = ({full}, {' - '.join([end + gaps, *lengths])})"]


def _unpacked(segments: Segments, names: list[str], call: str) -> tuple[Code, ...]:
    """Statements that name the bounds of each piece."""
    size = len(names) // len(segments.ranges.pieces)
    if size == len(names):
        return (Code(f"{', '.join(names)} = {call}"),)
    rows = [range(start, start + size) for start in range(0, len(names), size)]
    taken = [f"{', '.join(names[i] for i in row)} = {', '.join(f'limits[{i}]' for i in row)}" for row in rows]
    return (Code(f"limits = {call}"), *map(Code, taken))


def _of_piece(name: str, i: int) -> str:
    """A bound of the piece number `i`."""
    return name if i == 0 else f"{name}_{i + 1}"


def _listed(writer: Writer) -> Bounds:
    """The walks over a list, whose lengths stand beside it."""
    kernel = writer.kernel
    listing = listing_kernel(kernel)
    lines = row_lines(writer, listing, "ptr")
    walks = (
        "list_full = tl.load(count_start)",
        "list_masked = tl.load(count_start + 1)",
        "begins = (0, list_length - list_masked)",
        "ends = (list_full, list_length)",
    )
    return Bounds(stage_of_rows(kernel, listing), (*lines, *map(Code, walks)))


def _rounded(writer: Writer, segments: Segments, exprs: tuple[Expr, ...], block: Code) -> None:
    """Statements that assign the names above."""
    several = len(segments.ranges.pieces) > 1
    for i in range(len(segments.ranges.pieces)):
        begin, end, full_begin, full_length = (_of_piece(name, i) for name in ("begin", "end", "full_begin", "full_length"))
        some_lo, some_hi, all_lo, all_hi = exprs[4 * i : 4 * i + 4]
        lo, full_hi = (_bound(writer, expr, 10) for expr in (some_lo, all_hi))
        hi, full_lo = (_bound(writer, expr, 0) for expr in (some_hi, all_lo))
        start = f"{lo} // {block} * {block}" if lo != "0" else "0"
        before = _of_piece("end", i - 1)
        writer.put(f"{begin} = tl.maximum({start}, {before})" if i else f"{begin} = {start}")
        writer.put(f"{end} = tl.maximum(tl.cdiv({hi}, {block}) * {block}, {begin})" if several else f"{end} = {hi}")
        last_full = f"{full_hi} // {block} * {block}"
        if several and segments.count == 2:
            last_full = f"tl.minimum({last_full}, {end})"
        if segments.jumps and segments.count == 2:
            writer.put(f"{full_begin} = tl.maximum(tl.cdiv({full_lo}, {block}) * {block}, {begin})")
            writer.put(f"{full_length} = tl.maximum({last_full} - {full_begin}, 0)")
        elif segments.count == 2:
            writer.put(f"full_end = tl.maximum({last_full}, begin)")


def _scratch(writer: Writer, write: Callable[[], None]) -> tuple[Code, ...]:
    """Statements that stand in a function of their own: nothing after it knows their names."""
    known, section = dict(writer.known), writer.sections.prologue
    before, writer.stage, writer.sections.prologue = writer.stage, Stage.PROLOGUE, []
    write()
    lines = tuple(writer.sections.prologue)
    writer.known, writer.stage, writer.sections.prologue = known, before, section
    return lines


def _tile_value(writer: Writer, name: str, value: TileValue) -> Stage:
    """The least or greatest of a captured tensor over the tile. Positions behind the last row do not count."""
    vector = writer.loads.load(value.read)
    reduce, least = ("tl.min", _INT_MAX) if value.which == "least" else ("tl.max", -_INT_MAX)
    writer.put(f"{name} = {reduce}(tl.where(ok_{writer.kernel.resident}, {vector.code}, {least}), 0)", vector.stage)
    writer.steps[name] = Value(Code(name), (), vector.stage)
    return vector.stage


def _of_tile(resident: str) -> Callable[[Expr], Expr | None]:
    """First and last position of a tile by the names they have in the kernel."""

    def rule(node: Expr) -> Expr | None:
        return Read(f"{node.tensor}_{resident}", (), "int") if isinstance(node, Read) and node in (FIRST, LAST) else None

    return rule


_INT_MAX = 2**31 - 1


def _leaves(writer: Writer, exprs: tuple[Expr, ...]) -> dict[Code, Expr]:
    """The numbers that expressions are made of, by the name they have in the kernel."""
    found: dict[Code, Expr] = {}

    def visit(expr: Expr) -> None:
        if isinstance(expr, Apply):
            for arg in expr.args:
                visit(arg)
        elif not isinstance(expr, Const):
            found.setdefault(writer.leaf(expr)[0], expr)

    for expr in exprs:
        visit(expr)
    found.setdefault(writer.length(writer.kernel.streamed or ""), Extent(writer.kernel.streamed or ""))
    order = {"first": 0, "last": 1, "len": 3}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0].partition("_")[0], 2)))


def turn(segments: Segments) -> Code:
    """The variable of the loop."""
    return Code(f"{'turn' if segments.jumps or segments.listed else 'start'}_{segments.ranges.stream}")


def walk(segments: Segments) -> Code:
    """What it runs over, as the arguments of a range."""
    ends = "begins[segment], ends[segment]"
    return Code(ends if segments.listed else f"{ends}, BLOCK_{segments.ranges.stream.upper()}")


def turns(segments: Segments) -> tuple[Code, Code]:
    """The number of turns of a walk, and the variable in the turn `item % steps`."""
    block = f"BLOCK_{segments.ranges.stream.upper()}"
    if segments.listed:
        return Code("ends[segment] - begins[segment]"), Code("begins[segment] + item % steps")
    return Code(f"tl.cdiv(ends[segment] - begins[segment], {block})"), Code(f"begins[segment] + item % steps * {block}")


def offsets(segments: Segments) -> list[tuple[Code, int | None]]:
    """Statements at the head of a turn, each with the walk it belongs to, None for both: where its tile starts, and its positions."""
    streamed = segments.ranges.stream
    lines: list[tuple[Code, int | None]] = []
    if segments.jumps:
        lines.append((Code(f"start_{streamed} = turn_{streamed}"), None))
        for walked, place, distance in _jumps(segments):
            lines.append((Code(f"start_{streamed} += tl.where(start_{streamed} >= {place}, {distance}, 0)"), walked))
    if segments.listed:
        lines.append((Code(f"start_{streamed} = tl.load(list_start + turn_{streamed}) * BLOCK_{streamed.upper()}"), None))
    lines.append((Code(f"offs_{streamed} = start_{streamed} + range_{streamed}"), None))
    lines.append((Code(f"ok_{streamed} = offs_{streamed} < len_{streamed}"), None))
    return lines


def _jumps(segments: Segments) -> list[tuple[int, str, str]]:
    """Walk, place and distance of each jump, in the order of the stream."""
    pieces = range(len(segments.ranges.pieces))
    full = [(FULL, _of_piece("full_end", i), _of_piece("full_gap", i)) for i in pieces[:-1]]
    masked: list[tuple[int, str, str]] = []
    for i in pieces:
        if segments.count == 2:
            masked.append((MASKED, _of_piece("full_begin", i), _of_piece("full_length", i)))
        if i + 1 in pieces:
            masked.append((MASKED, _of_piece("end", i), _of_piece("gap", i)))
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


def _bound(writer: Writer, expr: Expr, precedence: int) -> str:
    """The text of a bound; a long one is computed beforehand and named."""
    text = writer.printer.operand(expr, (), precedence)
    return text if len(text) <= 36 else writer.assign(writer.name("bound"), expr, (), writer.stage)

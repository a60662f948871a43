"""The statements of a kernel that find where its walks begin and end, and the function `<role>_bounds` that they call.

Bounds are whole tiles, but for the end of the last. What is made of captured integers, or of literals that leave no room for a sum, is
computed in 64 bits and clipped to the axis, so that a window of 2**31 - 1 is simply one without an end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from attngen.analysis.affine import FIRST, LAST
from attngen.analysis.intervals import ZERO, TileValue
from attngen.analysis.kv_ranges import describe
from attngen.emit.builder import Writer
from attngen.emit.context import FunctionContext
from attngen.emit.format import WIDTH
from attngen.emit.identifiers import Code, folded, identifier, number
from attngen.emit.params import pointer
from attngen.emit.placement import Stage, Value
from attngen.emit.segments import Segments, bound_names, of_piece, turns
from attngen.emit.tile_list import listing_kernel, row_lines, stage_of_rows
from attngen.ir.expr import Apply, Const, Expr, Extent, Read
from attngen.ir.traverse import rewrite, walk


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
    function: FunctionContext | None = None
    values: tuple[tuple[Code, Expr], ...] = ()


def bounds(writer: Writer, segments: Segments, known: Iterable[FunctionContext] = ()) -> Bounds:
    """The statements that find the walks of a tile: in whole tiles, but for the end of the last.

    Args:
        writer, segments: of the kernel.
        known: functions of other kernels of the module, of which one may do.
    """
    if segments.listed:
        return _listed(writer, segments)
    ranges, resident = segments.ranges, writer.kernel.resident
    block = Code(f"BLOCK_{ranges.stream.upper()}")
    writer.length(ranges.stream)
    stage = max((_tile_value(writer, name, value) for name, value in ranges.over), default=Stage.PROLOGUE)
    exprs = tuple(rewrite(expr, _of_tile(resident)) for expr in ranges.bounds)
    stage = max(stage, *map(writer.stage_of, exprs))
    leaves = _leaves(writer, exprs)
    names = bound_names(segments)
    numbers = {name: expr for name, expr in leaves.items() if _is_captured(expr, resident)}
    if numbers:
        writer.use("wide")
    widened = tuple(Code(f"{name} = wide({name})") for name in numbers)
    body = (*widened, *_scratch(writer, lambda: _rounded(writer, segments, exprs, frozenset(numbers.values()))))
    ends = [Code(line) for line in (*_ragged(writer, segments), *_walks(segments), *_turns_of_part(writer, segments))]
    if ranges.bounds == (ZERO, Extent(ranges.stream)) * 2:
        return Bounds(stage, (*body, *ends))
    name = identifier(f"{writer.kernel.role}_bounds")
    title = Code(f"Which tiles along {ranges.stream} a tile along {resident} meets.")
    note = tuple(folded(f"It {describe(ranges)}.", WIDTH - 4))
    results = ", ".join(names)
    returned = Code(results if len(results) < WIDTH - 10 else f"({results})")
    function = FunctionContext(name, (*leaves, Code(f"{block}: tl.constexpr")), title, note, body, returned)
    function = next((other for other in known if replace(other, name=name) == function), function)
    call = f"{function.name}({', '.join((*leaves, block))})"
    return Bounds(stage, (*_unpacked(segments, names, call), *ends), function, tuple(leaves.items()))


def _ragged(writer: Writer, segments: Segments) -> list[str]:
    """No tile is full for programs whose own one ends behind the last position, where something is summed over the axis that stays."""
    kernel = writer.kernel
    if not kernel.atomic_adds or segments.count == 1:
        return []
    inside = f"first_{kernel.resident} + BLOCK_{kernel.resident.upper()} <= len_{kernel.resident}"
    name, empty = ("full_length", "0") if segments.jumps else ("full_end", "begin")
    names = [of_piece(name, i) for i, _ in enumerate(segments.ranges.pieces)]
    return [f"{name} = tl.where({inside}, {name}, {empty})" for name in names]


def _walks(segments: Segments) -> list[str]:
    """Where both walks begin and end, from the bounds; before that, how far pieces are apart."""
    pieces = range(len(segments.ranges.pieces))
    lines: list[str] = []
    for i in pieces[:-1]:
        begin, full_begin = (of_piece(name, i + 1) for name in ("begin", "full_begin"))
        lines.append(f"{of_piece('gap', i)} = {begin} - {of_piece('end', i)}")
        if segments.count == 2:
            full_end = of_piece("full_end", i)
            lines.append(f"{full_end} = {of_piece('full_begin', i)} + {of_piece('full_length', i)}")
            lines.append(f"{of_piece('full_gap', i)} = {full_begin} - {full_end}")
    end = of_piece("end", pieces[-1])
    gaps = "".join(f" - {of_piece('gap', i)}" for i in pieces[:-1])
    if segments.count == 1:
        return [*lines, "begins = (begin,)", f"ends = ({end}{gaps},)"]
    if not segments.jumps:
        return ["begins = (begin, full_end)", "ends = (full_end, end)"]
    lengths = [of_piece("full_length", i) for i in pieces]
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


def _turns_of_part(writer: Writer, segments: Segments) -> list[str]:
    """Where both walks begin and end for a part, where parts share them: each takes as many of all turns, in their order, as the others.

    A walk that ends before the first turn of the part begins where that turn is: tiles that go ahead begin there too.
    """
    part = writer.kernel.split_axis
    if not part or part == segments.ranges.stream:
        return []
    step = "" if segments.listed else f" * BLOCK_{segments.ranges.stream.upper()}"
    *full, masked = (turns(segments, walk=str(i))[0] for i in range(segments.count))
    note = "# Of all turns, in their order, a part has its share."
    taken = [f"first_turn = tl.cast({part} * all_turns // len_{part}, tl.int32)"]
    taken.append(f"last_turn = tl.cast(({part} + 1) * all_turns // len_{part}, tl.int32)")
    if not full:
        end, begin = f"tl.minimum(ends[0], begins[0] + last_turn{step})", f"begins[0] + first_turn{step}"
        return [note, f"all_turns = tl.maximum({masked}, 0)", *taken, f"ends = ({end},)", f"begins = ({begin},)"]
    first, last = (f"tl.maximum({turn} - full_turns, 0){step}" for turn in ("first_turn", "last_turn"))
    return [
        note,
        f"full_turns = {full[0]}",
        f"all_turns = full_turns + tl.maximum({masked}, 0)",
        *taken,
        f"ends = (tl.minimum(ends[0], begins[0] + last_turn{step}), tl.minimum(ends[1], begins[1] + {last}))",
        f"begins = (begins[0] + first_turn{step}, begins[1] + {first})",
    ]


def _listed(writer: Writer, segments: Segments) -> Bounds:
    """The walks over a list, whose lengths stand beside it."""
    kernel = writer.kernel
    listing = listing_kernel(kernel)
    lines = row_lines(writer, listing, pointer)
    walks = (
        "list_full = tl.load(count_start)",
        "list_masked = tl.load(count_start + 1)",
        "begins = (0, list_length - list_masked)",
        "ends = (list_full, list_length)",
    )
    return Bounds(stage_of_rows(kernel, listing), (*lines, *map(Code, (*walks, *_turns_of_part(writer, segments)))))


def _rounded(writer: Writer, segments: Segments, exprs: tuple[Expr, ...], numbers: frozenset[Expr]) -> None:
    """Statements that assign the names above; bounds made of captured `numbers` are computed in 64 bits."""
    several, block = len(segments.ranges.pieces) > 1, f"BLOCK_{segments.ranges.stream.upper()}"
    spell = functools.partial(_bound, writer, numbers)
    for i in range(len(segments.ranges.pieces)):
        begin, end, full_begin, full_length = (of_piece(name, i) for name in ("begin", "end", "full_begin", "full_length"))
        some_lo, some_hi, all_lo, all_hi = exprs[4 * i : 4 * i + 4]
        lo, full_hi = (spell(expr, 10) for expr in (some_lo, all_hi))
        hi, full_lo = (spell(expr, 0) for expr in (some_hi, all_lo))
        start = f"{lo} // {block} * {block}" if lo != "0" else "0"
        before = of_piece("end", i - 1)
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
    before, writer.stage, writer.sections.prologue, writer.apart = writer.stage, Stage.PROLOGUE, [], True
    write()
    lines = tuple(writer.sections.prologue)
    writer.known, writer.stage, writer.sections.prologue, writer.apart = known, before, section, False
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
_LARGE = 2**30


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


def _bound(writer: Writer, numbers: frozenset[Expr], expr: Expr, precedence: int) -> str:
    """The text of a bound; a long one is computed beforehand and named."""
    wide = rewrite(expr, lambda node: large(writer, node))
    if wide != expr or any(node in numbers for node in walk(expr)):
        writer.use("position")
        length = writer.length(writer.kernel.streamed or "")
        text = f"position({writer.printer.operand(unclipped(wide), (), 0)}, {length})"
        if len(text) <= _SHORT:
            return text
        name = writer.name("bound")
        writer.put(f"{name} = {text}")
        return name
    text = writer.printer.operand(expr, (), precedence)
    return text if len(text) <= _SHORT else writer.assign(writer.name("bound"), expr, (), writer.stage)


_SHORT = 36


def unclipped(expr: Expr) -> Expr:
    """A bound without the ends of the axis, which `position` knows."""
    match expr:
        case Apply(op="max", args=(a, b)) if ZERO in (a, b):
            return b if a == ZERO else a
        case Apply(op="min", args=(a, b)) if isinstance(a, Extent) or isinstance(b, Extent):
            return b if isinstance(a, Extent) else a
        case _:
            return expr


def large(writer: Writer, node: Expr) -> Expr | None:
    """A literal to which no position may be added in 32 bits, as a value of 64; None for all else."""
    if not (isinstance(node, Const) and node.kind == "int" and abs(node.value) >= _LARGE):
        return None
    # No step has a name with a space.
    name = f"wide {node.value}"
    writer.steps[name] = Value(Code(writer.dialect.scalar(number(node.value), "tl.int64")), (), Stage.PROLOGUE)
    return Read(name, (), "int")


def _is_captured(expr: Expr, resident: str) -> bool:
    """A number or value of the user's, of any size; not a position, a length or an index."""
    return isinstance(expr, Read) and expr.kind == "int" and expr.tensor not in (f"first_{resident}", f"last_{resident}")

"""Lists of tiles, where a mask has no closed form: a kernel of its own looks at every tile once and writes down which ones to visit.

    list[row] = | full tiles ->          <- tiles under masks |        count[row] = (full tiles, tiles under masks)

A row belongs to one resident tile of one head, as far as the mask tells heads apart. The stream then walks over the list: the full tiles
from the front, those under masks up to the end. Nothing is ever as large as the mask: a list takes two bytes a tile, four beyond 32768
tiles a row. A table of classes would take less, but loops over it would look at every tile again, each time with a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attngen.emit.builder import Writer
from attngen.emit.identifiers import Code
from attngen.emit.params import Memory, Param, result
from attngen.emit.placement import Stage
from attngen.ir import build
from attngen.ir.traverse import free_axes, names_read
from attngen.kernel.partition import Kernel

NARROW_TILES = 2**15
"""Up to so many tiles a row their numbers fit two bytes."""
_MEMORIES: tuple[Memory, Memory] = ("tile_list", "tile_counts")


def listing_kernel(kernel: Kernel) -> Kernel:
    """The kernel that lists the tiles of another one: the same tiles, spread over the heads that the mask tells apart."""
    predicates = tuple(part for part in (kernel.may_mask, kernel.must_mask, *kernel.bounding) if part is not None)
    apart = {axis for part in predicates for axis in free_axes(part)}
    used = {name for part in predicates for name in names_read(part)}
    return replace(
        kernel,
        role=f"{kernel.role}_list",
        tile_list_of=kernel.role,
        grid=tuple(axis for axis in (*kernel.grid, *kernel.loops) if axis in apart),
        loops=(),
        inputs=tuple(item for item in kernel.inputs if item.name in used),
        steps=(),
        outputs=(),
        gauges=(),
        accumulators=(),
        scatters=(),
        split_axis="",
    )


def names_of(role: str) -> tuple[Code, Code]:
    """What the list and the counts of a kernel are called on the host."""
    return Code(f"list_{role}"), Code(f"count_{role}")


def row_lines(writer: Writer, listing: Kernel, access: Callable[[Code, Memory], Param]) -> list[Code]:
    """Where the row of the resident tile lies: `list_start` and `count_start`; `access` is how the kernel takes the lists."""
    resident, streamed = listing.resident, listing.streamed or ""
    block = f"BLOCK_{resident.upper()}"
    names = zip(names_of(listing.tile_list_of), _MEMORIES, strict=True)
    lists, counts = (writer.parameter(access(name, memory)) for name, memory in names)
    writer.length(streamed)
    row = ""
    for axis in listing.grid:
        row = f"({row}) * {writer.length(axis)} + {axis}" if row else axis
    tile = f"tl.cast(first_{resident} // {block}, tl.int64)"
    return [
        Code(f"list_row = ({row}) * tiles_{resident} + {tile}" if row else f"list_row = {tile}"),
        Code(f"list_length = tl.cdiv(len_{streamed}, BLOCK_{streamed.upper()})"),
        Code(f"list_start = {lists} + list_row * list_length"),
        Code(f"count_start = {counts} + list_row * 2"),
    ]


def write_lists(writer: Writer, kernel: Kernel) -> None:
    """The statements of a listing kernel: each tile is classed and appended to one end of the row."""
    streamed = kernel.streamed or ""
    writer.sections.prologue += row_lines(writer, kernel, result)
    for name in ("list_full", "list_masked"):
        writer.sections.init.append(Code(f"{name} = tl.full((), 0, tl.int32)"))
    writer.stage = Stage.TILE
    pair = (kernel.resident, streamed)
    outside = f"(ok_{kernel.resident}[:, None] & ok_{streamed}[None, :])"
    writer.assign("pair_holds", kernel.may_mask or build.TRUE, pair, Stage.TILE)
    every = "pair_holds"
    if kernel.must_mask != kernel.may_mask:
        every = writer.assign("pair_full", kernel.must_mask or build.TRUE, pair, Stage.TILE)
    # Positions behind the last one that stays are nobody's, unless something is summed over them.
    full = f"{every} & {outside}" if kernel.atomic_adds else f"({every} | ~ok_{kernel.resident}[:, None]) & ok_{streamed}[None, :]"
    number = f"start_{streamed} // BLOCK_{streamed.upper()}"
    for line in (
        f"any_holds = tl.max(tl.max((pair_holds & {outside}).to(tl.int32), 1), 0)",
        f"pair_inside = {full}",
        "all_hold = tl.min(tl.min(pair_inside.to(tl.int32), 1), 0)",
        "some_fail = any_holds * (1 - all_hold)",
        f"tl.store(list_start + list_full, {number}, mask=all_hold != 0)",
        f"tl.store(list_start + list_length - 1 - list_masked, {number}, mask=some_fail != 0)",
        "list_full += all_hold",
        "list_masked += some_fail",
    ):
        writer.put(line, Stage.TILE)
    writer.sections.stores += [Code("tl.store(count_start, list_full)"), Code("tl.store(count_start + 1, list_masked)")]


def stage_of_rows(kernel: Kernel, listing: Kernel) -> Stage:
    """When the row is known: at the head of a turn where the mask tells the summed heads apart."""
    return Stage.LOOP if set(kernel.loops) & set(listing.grid) else Stage.PROLOGUE

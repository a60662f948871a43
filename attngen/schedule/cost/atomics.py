"""What it costs a turn of a fused backward to add its part of the gradients of rows to memory.

A turn forms dx^T k, [S, f], for which the tile dx of scores goes through shared memory once more, takes the product to the layout of memory
the same way, and adds it up in L2. Takes a `Structure` and a tile, gives `AtomicCost`; `cost` has the rest of the turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.kernel.feature_tiles import columns, tile_widths
from attngen.schedule.space import WIDE_ROWS, uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.schedule.work import Structure
from attngen.targets.table import Target

_GROUP_WARPS = 4
# Writing and reading a word of shared memory, and what forms and adds addresses, in instructions.
_INSTRUCTIONS_PER_WORD = 4


@dataclass(frozen=True, slots=True)
class AtomicCost:
    """Of one turn of one program.

    Attributes:
        columns: of the products, at the full rate of the matrix units; where only the older instruction serves, twice as many.
        words: accumulators that hold them.
        space_bytes: shared memory that they pass through. moved_bytes: what goes in and out there.
        instructions: of single threads.
        traffic_bytes: through L2.
    """

    columns: int = 0
    words: int = 0
    space_bytes: int = 0
    moved_bytes: int = 0
    instructions: int = 0
    traffic_bytes: int = 0


def atomic_cost(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> AtomicCost:
    """The price of what a kernel adds up in memory; zeros for one that stores whole results.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
    """
    if not structure.atomic_adds and not structure.added_rows:
        return AtomicCost()
    item, total = DTYPE_BYTES[dtype], max(DTYPE_BYTES[dtype], 4)
    resident, streamed = tile.resident, tile.streamed or 0
    width = sum(columns(dims[axis]) for axis in structure.atomic_adds)
    widest = max((tile_widths(dims[axis])[0] for axis in structure.atomic_adds), default=0)
    words = streamed * (width + structure.added_rows)
    wide = uses_wide_units(tile, dtype, target)
    older = target.matrix_unit in ("wgmma", "tcgen05") and item == 2 and wide and streamed < WIDE_ROWS
    # Groups of warps beside each other read all of the tile, those below each other all of what it is multiplied with.
    below = max(1, streamed // WIDE_ROWS)
    beside = max(1, tile.num_warps // _GROUP_WARPS // below)
    scores = resident * streamed * item
    # The older instruction takes what is kept from a place of its own, and its sums change layout in two halves.
    space = resident * width * item + max(scores, streamed * widest * total // 2) if older else max(scores, streamed * widest * total)
    return AtomicCost(
        columns=width * (2 if older else 1),
        words=words,
        space_bytes=space if structure.atomic_adds else 0,
        moved_bytes=(scores * (1 + beside) + below * resident * width * item + 2 * streamed * width * total)
        if structure.atomic_adds
        else 0,
        instructions=_INSTRUCTIONS_PER_WORD * words,
        traffic_bytes=words * total,
    )


def element_bytes(structure: Structure, dtype: str) -> int:
    """What a kernel without a stream moves for each element: a sum in memory was cleared, is read, and is written once more as a result."""
    item = DTYPE_BYTES[dtype]
    return 2 * max(item, 4) + item if structure.role.startswith("backward_finish") else item

"""Cost of dq in the fused backward: one more dot and its atomic adds in each iteration.

An iteration forms ds^T k, [S, f], for which ds passes through shared memory once more; the product is converted to the memory layout
through shared memory too, and added up in L2. Takes a `Structure` and a tile, gives `AtomicCost`; the rest is in `cost.time`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import columns, tile_widths
from attngen.schedule.space import WIDE_ROWS, uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

_GROUP_WARPS = 4
# Instructions a word: shared-memory store and load, address, atomic add.
_INSTRUCTIONS_PER_WORD = 4


@dataclass(frozen=True, slots=True)
class AtomicCost:
    """Of one iteration of one program.

    Attributes:
        columns: of the dots, at the full rate of the matrix units; counted twice where only mma applies, at half of the rate.
        words: of their accumulators.
        space_bytes: shared memory they pass through. moved_bytes: loads and stores there.
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
    """The cost of a kernel's atomic adds; zeros for one without.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
    """
    if not structure.atomic_adds and not structure.atomic_vectors:
        return AtomicCost()
    item, total = DTYPE_BYTES[dtype], max(DTYPE_BYTES[dtype], 4)
    resident, streamed = tile.resident, tile.streamed or 0
    width = sum(columns(dims[axis]) for axis in structure.atomic_adds)
    widest = max((tile_widths(dims[axis])[0] for axis in structure.atomic_adds), default=0)
    words = streamed * (width + structure.atomic_vectors)
    wide = uses_wide_units(tile, dtype, target)
    older = target.matrix_unit in ("wgmma", "tcgen05") and item == 2 and wide and streamed < WIDE_ROWS
    # Warpgroups side by side each read all of ds, those on top of each other all of the other operand.
    below = max(1, streamed // WIDE_ROWS)
    beside = max(1, tile.num_warps // _GROUP_WARPS // below)
    scores = resident * streamed * item
    # mma reads the resident operand from a copy of its own, and its accumulators are converted in two halves.
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
    """Bytes moved for each element by a kernel without a loop: an atomic sum is cleared, read, and written once more as a result."""
    item = DTYPE_BYTES[dtype]
    return 2 * max(item, 4) + item if structure.role.startswith("backward_finish") else item

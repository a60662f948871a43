"""Which tiles a kernel may have on a target, before anything is priced.

Gives `TileSchedule`s in a fixed order. Legal means that Triton takes them and that no warp stands idle by construction; whether they fit
memory and registers is for `cost` to say. Length classes decide nothing but the extents that are worth trying.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from attngen.alternates.known_alternates import ALTERNATES
from attngen.facts.work import Structure
from attngen.schedule.tile_schedule import BLOCKS, DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

LengthClass = Literal["decode", "short", "long"]
DECODE_TOKENS = 16
SHORT_TOKENS = 512
_STAGES = (1, 2, 3, 4)
# A tile of the matrix units with asynchronous operands is 64 rows high.
WIDE_ROWS = 64
# NVIDIA's products in fp32 and fp64 are unrolled into single multiply-adds, so that larger tiles only make the code longer.
_SCALAR_BLOCKS = (16, 32)


def length_class(q_len: int, kv_len: int) -> LengthClass:
    """The class of a call: a few queries against a cache, sequences too short to fill a GPU, and the rest.

    Args:
        q_len: queries, in tokens.
        kv_len: keys, in tokens.
    """
    if q_len <= DECODE_TOKENS:
        return "decode"
    return "short" if max(q_len, kv_len) <= SHORT_TOKENS else "long"


def candidates(structure: Structure, dtype: str, target: Target, length: LengthClass = "long") -> Iterator[TileSchedule]:
    """Legal tiles in a fixed order.

    Args:
        structure: of the kernel.
        dtype: of its tensors.
        target: where it shall run.
        length: class of the lengths it is for.
    """
    if structure.combines_splits:
        # Nothing but its rows and parts keep programs apart: the more of both stand side by side, the sooner it ends.
        yield from (TileSchedule(1, streamed, 4, 1) for streamed in (64, 32, 16))
        return
    if not structure.streams:
        for resident in (64, 128, 32, 16):
            yield TileSchedule(resident, None, 4, 1)
        return
    scalar = DTYPE_BYTES[dtype] > 2 and target.backend == "cuda"
    for resident in _resident(structure, scalar, length):
        for streamed in _streamed(structure, scalar, length):
            for warps in (4, 8):
                if _idle(resident, streamed, warps, scalar):
                    continue
                for stages in _STAGES:
                    tile = TileSchedule(resident, streamed, warps, stages)
                    yield from (replace(tile, **form) for form in _forms(structure, tile, dtype, target))


def alternate_tiles(structure: Structure, dtype: str, target: Target, length: LengthClass = "long") -> tuple[TileSchedule, ...]:
    """Tiles of the alternates of a kernel, () where it has none; arguments as for `candidates`."""
    return tuple(
        TileSchedule(streamed=streamed, num_stages=stages, alternate=flag, **ALTERNATES[flag].fields)
        for flag in structure.alternates
        for streamed, stages in ALTERNATES[flag].tiles(dtype, target, length)
    )


def _forms(structure: Structure, tile: TileSchedule, dtype: str, target: Target) -> Iterator[dict[str, bool]]:
    """Forms of a kernel that are worth trying. Going ahead helps where products run beside other instructions of the same warps, and
    leaves registers for it only where descriptors fetch tiles. Before or behind the maximum is the same work, and only machine code shows
    which of the two the assembler overlaps."""
    yield {}
    if target.has_tma and uses_wide_units(tile, dtype, target) and target.matrix_unit == "wgmma" and structure.rows:
        yield {"tma": True}
        if structure.prefetched:
            yield {"pipe": True, "tma": True}
            if structure.maxima:
                yield {"pipe": True, "late": True, "tma": True}


def uses_wide_units(tile: TileSchedule, dtype: str, target: Target) -> bool:
    """Whether products read their operands from shared memory (wgmma, tcgen05) instead of registers."""
    return target.matrix_unit in ("wgmma", "tcgen05") and tile.resident >= WIDE_ROWS and DTYPE_BYTES[dtype] == 2


def _resident(structure: Structure, scalar: bool, length: LengthClass) -> tuple[int, ...]:
    by_rows = structure.by_rows
    if length == "decode" and by_rows:
        return (16,)
    if scalar:
        return _SCALAR_BLOCKS
    return (64, 32, 16) if length == "short" and by_rows else tuple(block for block in BLOCKS if block <= 128)


def _streamed(structure: Structure, scalar: bool, length: LengthClass) -> tuple[int, ...]:
    if length == "decode" and not structure.by_rows:
        return (16,)
    return _SCALAR_BLOCKS if scalar else tuple(block for block in BLOCKS if block <= 128)


def _idle(resident: int, streamed: int, warps: int, scalar: bool) -> bool:
    """Whether warps would repeat each other's work however they stand: a warp takes at least 16 rows and 8 columns, and the narrowest
    tile for 8 warps is left to the price. Tiles of 64 rows and more may have asynchronous products, whose warps share columns."""
    if scalar or resident >= WIDE_ROWS:
        return False
    return streamed < 32 or (warps == 8 and resident < 32 and streamed < 64)

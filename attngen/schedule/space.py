"""The search space: legal tiles of a kernel on a target, in a fixed order.

Legal means that Triton accepts them and that no warp is redundant by construction; whether they fit memory and registers is for `cost`.
The length class only restricts the extents worth trying.
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
# An asynchronous product (wgmma, tcgen05) has at least 64 rows.
WIDE_ROWS = 64
# On NVIDIA, dots in fp32 and fp64 are unrolled into FMAs, so that larger tiles only lengthen the code.
_SCALAR_BLOCKS = (16, 32)


def length_class(q_len: int, kv_len: int) -> LengthClass:
    """The length class of a call: decode (few queries against a cache), short (too short to fill a GPU), or long.

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
        target: where it runs.
        length: the length class.
    """
    if structure.combines_splits:
        # Parallel over rows and splits only: one row a program and wide tiles of splits end soonest.
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
    """Forms of a kernel worth trying. Software pipelining helps where products are asynchronous, and leaves enough registers only with
    TMA loads. Issuing prefetched dots before or after the maximum is the same work; only SASS shows which of the two ptxas overlaps."""
    yield {}
    if target.has_tma and uses_wide_units(tile, dtype, target) and target.matrix_unit == "wgmma" and structure.dense_rows:
        yield {"tma": True}
        if structure.prefetched:
            yield {"pipe": True, "tma": True}
            if structure.maxima:
                yield {"pipe": True, "late": True, "tma": True}


def uses_wide_units(tile: TileSchedule, dtype: str, target: Target) -> bool:
    """Whether dots are asynchronous with operands in shared memory (wgmma, tcgen05)."""
    return target.matrix_unit in ("wgmma", "tcgen05") and tile.resident >= WIDE_ROWS and DTYPE_BYTES[dtype] == 2


def _resident(structure: Structure, scalar: bool, length: LengthClass) -> tuple[int, ...]:
    queries_resident = structure.queries_resident
    if length == "decode" and queries_resident:
        return (16,)
    if scalar:
        return _SCALAR_BLOCKS
    return (64, 32, 16) if length == "short" and queries_resident else tuple(block for block in BLOCKS if block <= 128)


def _streamed(structure: Structure, scalar: bool, length: LengthClass) -> tuple[int, ...]:
    if length == "decode" and not structure.queries_resident:
        return (16,)
    return _SCALAR_BLOCKS if scalar else tuple(block for block in BLOCKS if block <= 128)


def _idle(resident: int, streamed: int, warps: int, scalar: bool) -> bool:
    """Whether warps repeat each other's work in any layout: a warp takes at least 16 rows and 8 columns. The narrowest tile for 8 warps
    is left to the cost model; tiles of 64 rows and more may use asynchronous products, whose warps share columns."""
    if scalar or resident >= WIDE_ROWS:
        return False
    return streamed < 32 or (warps == 8 and resident < 32 and streamed < 64)

"""How Triton lays out warps over the dots of a kernel, and the work they repeat.

A warp on NVIDIA takes at least 16 rows and 8 columns of a dot. Triton lays all warps of a streaming kernel along one side of its tiles
without checking that the side is long enough; surplus warps repeat each other's work. Takes a `Structure` and a tile, gives `Repeats`.
Closed formulas, checked against the instruction counts of compiled kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import tile_widths
from attngen.schedule.space import uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

_ROWS, _COLUMNS = 16, 8
# A warpgroup issues an asynchronous product, its four warps along the rows.
_GROUP = 4


@dataclass(frozen=True, slots=True)
class Repeats:
    """How many warps compute each score, each accumulator element (on average), and each multiply-add of an iteration."""

    scores: float
    sums: float
    products: float


ONCE = Repeats(1.0, 1.0, 1.0)


def repeats(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> Repeats:
    """The work that warps repeat in an iteration. AMD targets and tcgen05, whose accumulators are in tensor memory, count as exact.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
    """
    wide = uses_wide_units(tile, dtype, target)
    if tile.streamed is None or DTYPE_BYTES[dtype] > 2 or target.backend != "cuda" or (wide and target.matrix_unit == "tcgen05"):
        return ONCE
    # Columns and depth of each dot, in program order.
    scores = [(tile.streamed, piece) for axis in structure.dots for piece in tile_widths(dims[axis])]
    sums = [(piece, tile.streamed) for axis in structure.carried for piece in tile_widths(dims[axis])]
    products = [*scores, *sums]
    if not products:
        return ONCE
    if wide:
        feeding = (tile.num_warps, 1)
        feeds = _feeding(structure, dims, tile) if tile.pipe else [bool(sums)] * len(scores)
        counts = [
            _held(feeding if feeds_another else _wide(tile), tile, columns)
            for (columns, _), feeds_another in zip(scores, feeds, strict=True)
        ]
        counts += [_held(_wide(tile), tile, columns) for columns, _ in sums]
    else:
        warps = _chained(tile, products[-1][0]) if len(products) > 1 else _balanced(tile, products[-1][0])
        counts = [_held(warps, tile, columns) for columns, _ in products]
    return Repeats(
        max(counts[: len(scores)], default=1.0),
        _mean(counts[len(scores) :], [columns for columns, _ in sums]),
        _mean(counts, [columns * depth for columns, depth in products]),
    )


def _feeding(structure: Structure, dims: Mapping[str, int], tile: TileSchedule) -> list[bool]:
    """Whether each prefetched score dot feeds another: only if issued after the maximum, within its accumulation chain."""
    found: list[bool] = []
    last = list(structure.last_dots)
    for axis in structure.dots:
        ends = axis in last
        if ends:
            last.remove(axis)
        count = len(tile_widths(dims[axis]))
        found += [tile.late and not (ends and i == count - 1) for i in range(count)]
    return found


def _mean(values: list[float], weights: list[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights) if weights else 1.0


def _held(warps: tuple[int, int], tile: TileSchedule, columns: int) -> float:
    """How many warps compute each element of a dot, given the warps along its rows and columns."""
    down, across = warps
    return max(1.0, down * _ROWS / tile.resident) * max(1.0, across * _COLUMNS / columns)


def _chained(tile: TileSchedule, columns: int) -> tuple[int, int]:
    """Chained dots share the layout of the last one: warps along its longer side."""
    return (tile.num_warps, 1) if tile.resident >= columns else (1, tile.num_warps)


def _balanced(tile: TileSchedule, columns: int) -> tuple[int, int]:
    """A dot by itself balances the fragments of both operands in a warp."""
    down, across = 1, 1
    rows, rest = tile.resident // _ROWS, columns // _COLUMNS
    while down * across < tile.num_warps:
        if rows >= rest:
            down, rows = 2 * down, max(rows // 2, 1)
        else:
            across, rest = 2 * across, rest // 2
    return down, across


def _wide(tile: TileSchedule) -> tuple[int, int]:
    """An asynchronous product that feeds no other: warpgroups along the rows as far as they go, then along the columns."""
    down, across = _GROUP, 1
    while down * across < tile.num_warps:
        if tile.resident > _ROWS * down:
            down *= 2
        else:
            across *= 2
    return down, across

"""How the warps of a program share its matrix products, and what they compute more than once.

A warp of NVIDIA's GPUs takes at least 16 rows and 8 columns of a product. Triton lays all warps of a program along one side of the tiles of
a streaming kernel, by rules that know rows and columns but not whether there are enough of them; what is left over, several warps compute
alike. Takes a `Structure` and a tile, gives `Repeats`. Closed formulas, held against the instructions of compiled kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.kernel.feature_tiles import tile_widths
from attngen.schedule.space import uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.schedule.work import Structure
from attngen.targets.table import Target

_ROWS, _COLUMNS = 16, 8
# Four warps issue an asynchronous product together, and stand below each other.
_GROUP = 4


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often what a turn computes is computed: by how many warps each score, each accumulator (on average), and each multiply-add."""

    scores: float
    sums: float
    products: float


ONCE = Repeats(1.0, 1.0, 1.0)


def repeats(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> Repeats:
    """What warps do more than once in one turn. AMD's units and those that keep accumulators in a memory of their own count as exact.

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
    # Columns and depth of each product, in the order in which kernels form them.
    scores = [(tile.streamed, width) for axis in structure.dots for width in tile_widths(dims[axis])]
    sums = [(width, tile.streamed) for axis in structure.carried for width in tile_widths(dims[axis])]
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
    """Whether each product of scores that goes ahead feeds another: only behind the maximum, where the next of its accumulator is added."""
    found: list[bool] = []
    last = list(structure.behind)
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
    """How many warps, so many along rows and columns, compute each element of a product."""
    down, across = warps
    return max(1.0, down * _ROWS / tile.resident) * max(1.0, across * _COLUMNS / columns)


def _chained(tile: TileSchedule, columns: int) -> tuple[int, int]:
    """Products that feed each other have one layout, that of the last one: warps along its longer side."""
    return (tile.num_warps, 1) if tile.resident >= columns else (1, tile.num_warps)


def _balanced(tile: TileSchedule, columns: int) -> tuple[int, int]:
    """A product by itself has as many fragments of each operand in a warp as it can."""
    down, across = 1, 1
    rows, rest = tile.resident // _ROWS, columns // _COLUMNS
    while down * across < tile.num_warps:
        if rows >= rest:
            down, rows = 2 * down, max(rows // 2, 1)
        else:
            across, rest = 2 * across, rest // 2
    return down, across


def _wide(tile: TileSchedule) -> tuple[int, int]:
    """An asynchronous product that feeds no other one: groups of warps along rows while there are any, then along columns."""
    down, across = _GROUP, 1
    while down * across < tile.num_warps:
        if tile.resident > _ROWS * down:
            down *= 2
        else:
            across *= 2
    return down, across

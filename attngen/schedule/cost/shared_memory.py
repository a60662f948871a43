"""Shared memory of a program, by a closed formula for each kind of matrix unit.

The formulas follow Triton's allocation; against compiled kernels they are never below, and at most 2 KiB above on sm90.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from attngen.alternates.known_alternates import ALTERNATES
from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import columns, tile_widths
from attngen.schedule.cost.atomics import atomic_cost
from attngen.schedule.space import uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

# Barriers of a program.
_BARRIER_BYTES = 1056
_NARROW_BARRIER_BYTES = 64
# Alignment of operands of asynchronous products, to which small buffers between them are padded.
_OPERAND_ALIGNMENT_BYTES = 1024
# Row sums across warps, at most, and the conversion buffer of prefetched scores issued after the maximum, at least.
_CROSS_WARP_BYTES = 1024
_CONVERSION_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Parts:
    """Bytes of the buffers of an iteration: each streamed tile, the reused ones together, each resident tile, vectors and tiles loaded by
    element, one score tile, and the operands of bias dots and atomic adds."""

    streamed_tiles: tuple[int, ...]
    held: int
    resident_tiles: tuple[int, ...]
    vectors: int
    scores: int
    narrow: int

    def ring(self, stages: int) -> int:
        """The multi-stage buffer of the streamed tiles."""
        return max(stages, 1) * sum(self.streamed_tiles)


def shared_bytes(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> int:
    """Bytes of shared memory of a program, at most.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
    """
    item = DTYPE_BYTES[dtype]
    if tile.streamed is None:
        # Without a loop, shared memory serves reductions across warps only.
        return tile.resident * 8 * max(len(structure.once), 1)
    if structure.combines_splits:
        # Each warp has splits of its own; their sums are exchanged one tensor after the other.
        return tile.num_warps * tile.resident * max(tile_columns(structure.streamed_tiles, dims), default=1) * max(item, 4)
    rows = structure.pairs - structure.gathered
    vectors = (tile.num_stages - 1) * (structure.vectors * tile.streamed * max(item, 4) + rows * tile.resident * tile.streamed * item)
    # Tiles loaded or stored by element are converted between the memory and the dot layout in one shared buffer.
    vectors += tile.resident * tile.streamed * max(item, 4) if structure.gathered or structure.stored_tiles else 0
    parts = _Parts(
        streamed_tiles=tuple(elements * item for elements in streamed_elements(structure, dims, tile)),
        held=sum(tile.streamed * columns * item for columns in tile_columns(structure.reused_tiles, dims)),
        resident_tiles=tuple(tile.resident * columns * item for columns in tile_columns(structure.resident_tiles, dims)),
        vectors=vectors,
        scores=tile.resident * tile.streamed * item,
        narrow=tile.streamed * structure.bias_columns * item + atomic_cost(structure, dims, dtype, tile, target).space_bytes,
    )
    if target.backend == "hip":
        return _mfma(parts, structure, dims, item, tile, target)
    if not uses_wide_units(tile, dtype, target):
        return _mma(parts, structure, dims, item, tile)
    return _tcgen05(parts, structure, dims, item, tile) if target.matrix_unit == "tcgen05" else _wgmma(parts, structure, dims, item, tile)


def _mfma(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule, target: Target) -> int:
    ring = parts.ring(tile.num_stages - 1) if tile.num_stages > 1 else max(parts.streamed_tiles, default=0)
    narrowest = min((tile_widths(dims[axis])[-1] for axis in structure.dots), default=target.matrix_depth)
    shallow = item == 2 and narrowest < target.matrix_depth
    moved = parts.scores if tile.resident < 32 * tile.num_warps or shallow else 0
    return max(ring + moved + parts.vectors, *parts.resident_tiles, 0) + parts.narrow


def _tcgen05(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule) -> int:
    streamed = tile.streamed or 0
    shared_rows = _CROSS_WARP_BYTES if tile.resident < 16 * tile.num_warps else 0
    # A bias dot has both operands here, and reused tiles are copied once more.
    operand = tile.resident * structure.bias_columns * item
    again = parts.narrow + operand + parts.held + _NARROW_BARRIER_BYTES if parts.narrow else 0
    # So is the widest feature tile of reused tiles with several.
    again += sum(streamed * tile_widths(dims[axis])[0] * item for axis in structure.reused_tiles if len(tile_widths(dims[axis])) > 1)
    held = parts.held if tile.num_stages > 1 else 0
    return sum(parts.resident_tiles) + parts.ring(tile.num_stages) + held + _aligned(parts.vectors) + _BARRIER_BYTES + shared_rows + again


def _wgmma(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule) -> int:
    streamed = tile.streamed or 0
    ring, extra = parts.ring(tile.num_stages), parts.narrow
    if tile.alternate:
        return ALTERNATES[tile.alternate].shared_bytes(sum(parts.resident_tiles), ring)
    if tile.pipe:
        # The first prefetched tile has a buffer of its own, as far as it is in flight when the loop begins. Issued before the maximum,
        # a bias is added without a dot.
        widths = [tile_widths(dims[axis])[-1] for axis in structure.last_dots] if tile.late else tile_columns(structure.prefetched, dims)
        first = sum(streamed * width * item for width in widths)
        # Warps that share rows exchange scores, which with a single stage reuse the buffer of the prefetched tile.
        handed = max(parts.scores, _CONVERSION_BYTES if tile.late else 0) if tile.resident < 16 * tile.num_warps else 0
        narrow = parts.narrow if tile.late else 0
        extra = first + handed + narrow
        if tile.num_stages == 1:
            # It is consumed before the other streamed tiles arrive.
            whole = sum(streamed * width * item for width in tile_columns(structure.prefetched, dims))
            ring = max(whole, sum(parts.streamed_tiles) - whole)
            extra = narrow + (handed or tile.resident * structure.bias_columns * item) if narrow else 0
    return sum(parts.resident_tiles) + ring + _aligned(parts.vectors) + extra + (_OPERAND_ALIGNMENT_BYTES if tile.tma else 0)


def _mma(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule) -> int:
    streamed = tile.streamed or 0
    ring, more = parts.ring(tile.num_stages - 1), parts.vectors + parts.narrow
    if item > 2:
        # Every operand computed from scores is copied, and row sums as well.
        return (
            sum(parts.resident_tiles) + ring + len(structure.carried) * parts.scores + more + (8 * tile.resident if structure.sums else 0)
        )
    moved = parts.scores if tile.resident < widest(structure.carried, dims) else 0
    again = 0
    if tile.num_stages == 1:
        again = max((streamed * columns * item for columns in tile_columns(structure.reused_tiles, dims)), default=0)
        if not structure.reused_tiles:
            # The tiles share one buffer.
            wide = [
                streamed * widest(structure.streamed_tiles, dims),
                *(tile.resident * n for n in tile_columns(structure.reloaded_tiles, dims)),
            ]
            ring = item * max(wide)
    return sum(parts.resident_tiles) + ring + moved + again + more


def _aligned(size: int) -> int:
    return ceil(size / _OPERAND_ALIGNMENT_BYTES) * _OPERAND_ALIGNMENT_BYTES


def tile_columns(axes: Iterable[str], dims: Mapping[str, int]) -> list[int]:
    """Columns of the tiles along feature axes."""
    return [columns(dims[axis]) for axis in axes]


def widest(axes: Iterable[str], dims: Mapping[str, int]) -> int:
    """Columns of the widest single tile along any of the axes."""
    return max((tile_widths(dims[axis])[0] for axis in axes), default=0)


def streamed_elements(structure: Structure, dims: Mapping[str, int], tile: TileSchedule) -> list[int]:
    """Elements of each tile loaded in an iteration."""
    streamed = [(tile.streamed or 0) * columns for columns in tile_columns(structure.streamed_tiles, dims)]
    return [*streamed, *(tile.resident * columns for columns in tile_columns(structure.reloaded_tiles, dims))]

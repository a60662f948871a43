"""Shared memory that a program takes, by a closed formula for each kind of matrix unit.

It follows how Triton allocates and is held against compiled numbers: never below, at most 2 KiB above on sm90.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from attngen.kernel.feature_tiles import columns, tile_widths
from attngen.schedule.cost.atomics import atomic_cost
from attngen.schedule.space import uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.schedule.work import Structure
from attngen.targets.table import Target

# What a program needs besides its tiles.
_BARRIER_BYTES = 1056
_NARROW_BARRIER_BYTES = 64
# Operands of asynchronous products start at such addresses, so that small buffers between them are rounded up.
_OPERAND_ALIGNMENT_BYTES = 1024
# Sums of rows that several warps share, at most, and what they hand over of scores that are sums of products, at least.
_CROSS_WARP_BYTES = 1024
_HANDED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Parts:
    """Bytes of what a turn has: tiles that pass, each by itself, and those of them that live through it; tiles that stay; vectors and tiles
    of single elements; a tile of scores; the operands of narrow products, and what is added up in memory."""

    streamed_tiles: tuple[int, ...]
    held: int
    resident_tiles: tuple[int, ...]
    vectors: int
    scores: int
    narrow: int

    def ring(self, stages: int) -> int:
        """What passes, as often as it is under way."""
        return max(stages, 1) * sum(self.streamed_tiles)


def shared_bytes(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> int:
    """Bytes of shared memory that a program takes, at most.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
    """
    item = DTYPE_BYTES[dtype]
    if tile.streamed is None:
        # A kernel without a stream uses shared memory for sums across warps only.
        return tile.resident * 8 * max(len(structure.once), 1)
    if structure.combines_splits:
        # Warps have parts of their own, whose sums they exchange one tensor after the other.
        return tile.num_warps * tile.resident * max(tile_columns(structure.streamed_tiles, dims), default=1) * max(item, 4)
    rows = structure.pairs - structure.gathered
    vectors = (tile.num_stages - 1) * (structure.vectors * tile.streamed * max(item, 4) + rows * tile.resident * tile.streamed * item)
    # Tiles of single elements go from the layout of memory to that of products, or back, through a space that they share.
    vectors += tile.resident * tile.streamed * max(item, 4) if structure.gathered or structure.stored else 0
    parts = _Parts(
        streamed_tiles=tuple(elements * item for elements in passing_elements(structure, dims, tile)),
        held=sum(tile.streamed * columns * item for columns in tile_columns(structure.held, dims)),
        resident_tiles=tuple(tile.resident * columns * item for columns in tile_columns(structure.resident_tiles, dims)),
        vectors=vectors,
        scores=tile.resident * tile.streamed * item,
        narrow=tile.streamed * structure.folded * item + atomic_cost(structure, dims, dtype, tile, target).space_bytes,
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
    # A narrow product has both of its operands here, and what is held is held once more.
    operand = tile.resident * structure.folded * item
    again = parts.narrow + operand + parts.held + _NARROW_BARRIER_BYTES if parts.narrow else 0
    # So is the widest piece of what is held in several.
    again += sum(streamed * tile_widths(dims[axis])[0] * item for axis in structure.held if len(tile_widths(dims[axis])) > 1)
    held = parts.held if tile.num_stages > 1 else 0
    return sum(parts.resident_tiles) + parts.ring(tile.num_stages) + held + _aligned(parts.vectors) + _BARRIER_BYTES + shared_rows + again


def _wgmma(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule) -> int:
    streamed = tile.streamed or 0
    ring, extra = parts.ring(tile.num_stages), parts.narrow
    if tile.specialised:
        # Rings of tiles, their barriers, and nothing that the compiler adds.
        return sum(parts.resident_tiles) + ring + _BARRIER_BYTES
    if tile.pipe:
        # The first tile that goes ahead has a place of its own, as far as it is under way when the turns begin. Apart from what it would be
        # added to, no bias is a product.
        widths = [tile_widths(dims[axis])[-1] for axis in structure.behind] if tile.late else tile_columns(structure.prefetched, dims)
        first = sum(streamed * width * item for width in widths)
        # Warps that share rows hand scores over, which without a stage to spare have the place of what went ahead.
        handed = max(parts.scores, _HANDED_BYTES if tile.late else 0) if tile.resident < 16 * tile.num_warps else 0
        narrow = parts.narrow if tile.late else 0
        extra = first + handed + narrow
        if tile.num_stages == 1:
            # It is read before what else passes comes.
            whole = sum(streamed * width * item for width in tile_columns(structure.prefetched, dims))
            ring = max(whole, sum(parts.streamed_tiles) - whole)
            extra = narrow + (handed or tile.resident * structure.folded * item) if narrow else 0
    return sum(parts.resident_tiles) + ring + _aligned(parts.vectors) + extra + (_OPERAND_ALIGNMENT_BYTES if tile.tma else 0)


def _mma(parts: _Parts, structure: Structure, dims: Mapping[str, int], item: int, tile: TileSchedule) -> int:
    streamed = tile.streamed or 0
    ring, more = parts.ring(tile.num_stages - 1), parts.vectors + parts.narrow
    if item > 2:
        # Every operand made of scores is copied, and sums of rows as well.
        return (
            sum(parts.resident_tiles) + ring + len(structure.carried) * parts.scores + more + (8 * tile.resident if structure.sums else 0)
        )
    moved = parts.scores if tile.resident < widest(structure.carried, dims) else 0
    again = 0
    if tile.num_stages == 1:
        again = max((streamed * columns * item for columns in tile_columns(structure.held, dims)), default=0)
        if not structure.held:
            # One tile after the other has the same place.
            wide = [
                streamed * widest(structure.streamed_tiles, dims),
                *(tile.resident * n for n in tile_columns(structure.reloaded_tiles, dims)),
            ]
            ring = item * max(wide)
    return sum(parts.resident_tiles) + ring + moved + again + more


def _aligned(size: int) -> int:
    return ceil(size / _OPERAND_ALIGNMENT_BYTES) * _OPERAND_ALIGNMENT_BYTES


def tile_columns(axes: Iterable[str], dims: Mapping[str, int]) -> list[int]:
    """Columns of the tiles over feature axes."""
    return [columns(dims[axis]) for axis in axes]


def widest(axes: Iterable[str], dims: Mapping[str, int]) -> int:
    """Columns of the widest single tile over any of the axes."""
    return max((tile_widths(dims[axis])[0] for axis in axes), default=0)


def passing_elements(structure: Structure, dims: Mapping[str, int], tile: TileSchedule) -> list[int]:
    """Elements of each tile that a turn fetches."""
    streamed = [(tile.streamed or 0) * columns for columns in tile_columns(structure.streamed_tiles, dims)]
    return [*streamed, *(tile.resident * columns for columns in tile_columns(structure.reloaded_tiles, dims))]

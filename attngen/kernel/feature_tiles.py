"""Feature tiles: a feature axis is split into tiles whose widths are powers of two, from 16 up.

    96 = 64 + 32        192 = 128 + 64        576 = 512 + 64        72 = 64 + 16, the last 8 columns padded        24 = 32, likewise

The text of a module depends on the `Cuts` of its feature axes, schedules and costs on the width of each tile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

_NARROWEST = 16


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """The number of tiles of a feature axis, and whether the last one is padded."""

    axis: str
    count: int
    padded: bool


Cuts = tuple[Cut, ...]
"""The cuts of all axes but those that are one unpadded tile, sorted by name."""


def tile_widths(length: int) -> tuple[int, ...]:
    """Widths of the tiles of a feature axis, widest first. They add up to `length` rounded up to a multiple of 16."""
    rounded = -(-length // _NARROWEST) * _NARROWEST
    return tuple(1 << bit for bit in reversed(range(rounded.bit_length())) if rounded >> bit & 1)


def columns(length: int) -> int:
    """Columns of all tiles of a feature axis, padding included."""
    return sum(tile_widths(length))


def cuts(dims: Mapping[str, int]) -> Cuts:
    """The cuts of feature axes, by their lengths."""
    found = (Cut(axis, len(tile_widths(length)), columns(length) != length) for axis, length in dims.items())
    return tuple(sorted(cut for cut in found if cut.count > 1 or cut.padded))


def label(length: int) -> str:
    """The tile widths as text: "64", "64-32", "64-16p" if the last one is padded."""
    return "-".join(map(str, tile_widths(length))) + ("p" if columns(length) != length else "")


def tile_axes(cut: Cut, taken: Collection[str]) -> tuple[str, ...]:
    """Names of the tile axes: d_0, d_1, or the axis itself for one tile. No name in `taken` has their prefix."""
    if cut.count == 1:
        return (cut.axis,)
    stem = f"{cut.axis}_"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    return tuple(f"{stem}{number}" for number in range(cut.count))

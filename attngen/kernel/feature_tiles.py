"""Into which tiles a feature axis is cut: a tile has a power of two of columns, from 16 up.

    96 = 64 + 32        192 = 128 + 64        576 = 512 + 64        72 = 64 + 16, of which the last 8 only pad        24 = 32, likewise

The one place that knows. The text of a module depends on the `Cuts` of its lengths, tiles and prices on the columns of each piece.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

_NARROWEST = 16


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """How many pieces an axis has, and whether the last of them is padded."""

    axis: str
    count: int
    padded: bool


Cuts = tuple[Cut, ...]
"""Of the axes that are not one tile of their own length, in order of their names."""


def pieces(length: int) -> tuple[int, ...]:
    """Columns of the tiles over a feature axis, widest first. They add up to `length` rounded up to a multiple of 16."""
    rounded = -(-length // _NARROWEST) * _NARROWEST
    return tuple(1 << bit for bit in reversed(range(rounded.bit_length())) if rounded >> bit & 1)


def columns(length: int) -> int:
    """Columns of all tiles over a feature axis."""
    return sum(pieces(length))


def cuts(dims: Mapping[str, int]) -> Cuts:
    """What the text of a module depends on, of the lengths of its feature axes."""
    found = (Cut(axis, len(pieces(length)), columns(length) != length) for axis, length in dims.items())
    return tuple(sorted(cut for cut in found if cut.count > 1 or cut.padded))


def label(length: int) -> str:
    """The pieces of a length as text: "64", "64-32", "64-16p" if the last one is padded."""
    return "-".join(map(str, pieces(length))) + ("p" if columns(length) != length else "")


def tile_axes(cut: Cut, taken: Collection[str]) -> tuple[str, ...]:
    """Names of the axes of the pieces: d_0, d_1; the axis itself where it is one piece. No name in `taken` begins like them."""
    if cut.count == 1:
        return (cut.axis,)
    stem = f"{cut.axis}_"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    return tuple(f"{stem}{number}" for number in range(cut.count))

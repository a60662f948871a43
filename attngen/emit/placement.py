"""The sections of a kernel, the values in them, and when each is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from attngen.emit.expression import Layout
from attngen.emit.identifiers import Code
from attngen.kernel.feature_tiles import Cuts, tile_axes


class Stage(IntEnum):
    """When a value is known."""

    PROLOGUE = 0
    LOOP = 1
    TILE = 2
    EPILOGUE = 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the text depends on besides the kernel.

    Attributes:
        owned: tensors that this module allocates itself (contiguous in their axes, row statistics in the accumulator type).
        padded: feature axes, or pieces of one, whose tile is wider than they are.
        pieces: axes of the pieces of each feature axis that has several.
        states: what it allocates for kernels to go on from: in the accumulator type whatever their axes, and read by their strides.
    """

    owned: frozenset[str]
    padded: frozenset[str] = frozenset()
    pieces: tuple[tuple[str, tuple[str, ...]], ...] = ()
    states: frozenset[str] = frozenset()

    @property
    def whole(self) -> dict[str, str]:
        """The axis that each piece belongs to."""
        return {part: axis for axis, parts in self.pieces for part in parts}

    def constants(self, axis: str) -> tuple[Code, ...]:
        """Names of the constants that hold the columns of the tiles over a feature axis, where its length does not tell them."""
        parts = dict(self.pieces).get(axis, (axis,) if axis in self.padded else ())
        return tuple(Code(f"{'PAD' if part in self.padded else 'DIM'}_{part.upper()}") for part in parts)

    def before(self, part: str) -> tuple[Code, ...]:
        """The constants whose sum is the first column of a piece."""
        parts = dict(self.pieces).get(self.whole.get(part, part), (part,))
        return self.constants(self.whole.get(part, part))[: parts.index(part)]


def shapes(owned: frozenset[str], cuts: Cuts, taken: Collection[str], states: frozenset[str] = frozenset()) -> Shapes:
    """The shapes of a module.

    Args:
        owned: tensors that it allocates itself.
        cuts: of its feature axes.
        taken: names of axes that pieces must not have.
        states: what kernels carried and others go on from.
    """
    axes = {cut.axis: tile_axes(cut, taken) for cut in cuts}
    padded = frozenset(axes[cut.axis][-1] for cut in cuts if cut.padded)
    return Shapes(owned, padded, tuple((axis, parts) for axis, parts in axes.items() if len(parts) > 1), states)


@dataclass(frozen=True, slots=True)
class Value:
    """A named value: its text, its layout and when it is known. `raw` ones are in the storage type, `tiled` ones rows of a matrix."""

    code: Code
    layout: Layout
    stage: Stage
    raw: bool = False
    tiled: bool = False


FULL, MASKED = 0, 1
"""The two walks of a stream: over tiles that need no masks, and over the others."""


@dataclass
class Sections:
    """Statements collected so far; tile statements carry the walk that they belong to, None for both."""

    prologue: list[Code] = field(default_factory=list[Code])
    init: list[Code] = field(default_factory=list[Code])
    loop: list[Code] = field(default_factory=list[Code])
    tile: list[tuple[Code, int | None]] = field(default_factory=list[tuple[Code, int | None]])
    epilogue: list[Code] = field(default_factory=list[Code])
    stores: list[Code] = field(default_factory=list[Code])

"""The sections of a kernel, the values in them, and when each is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from attngen.emit.expression import Layout
from attngen.emit.names import Code


class Stage(IntEnum):
    """When a value is known."""

    PROLOGUE = 0
    LOOP = 1
    TILE = 2
    EPILOGUE = 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the text depends on besides the kernel: feature axes whose tile is padded to a power of two, and tensors that this
    module allocates itself (contiguous in their axes, row statistics in the accumulator type)."""

    padded: frozenset[str]
    owned: frozenset[str]


@dataclass(frozen=True, slots=True)
class Value:
    """A named value: its text, its layout and when it is known. `raw` ones are in the storage type."""

    code: Code
    layout: Layout
    stage: Stage
    raw: bool = False


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

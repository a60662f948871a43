"""The interface of an alternate kernel, through which schedules, launches, compiles and the text of a module know it.

An alternate kernel computes what the plain kernel of its role computes and takes the same arguments. A tile names it by its flag; a user
asks for it by the flag in capitals (`schedule={"forward": {"FLAG": True}}`). `known_alternates` lists them, `emit.alternate_text` prints
them. Nothing outside of their own rooms depends on which there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from attngen.analysis.predicates import Guards
from attngen.kernel.partition import Kernel
from attngen.targets.table import Target


@dataclass(frozen=True, slots=True)
class AlternateLaunch:
    """What a launch of an alternate kernel has instead of the plain kernel's: `num_warps`, and `constants`, its compile-time arguments
    besides blocks, dtypes and extents."""

    num_warps: int
    constants: tuple[tuple[str, int], ...]


class AlternateKernel(Protocol):
    """One alternate kernel, of any variant that can have it."""

    @property
    def flag(self) -> str:
        """Its name in the text of a tile: an identifier in small letters."""
        ...

    @property
    def role(self) -> str:
        """Of the plain kernel that it stands in for."""
        ...

    @property
    def function(self) -> str:
        """The one that is launched, in the emitted module."""
        ...

    @property
    def first_function(self) -> str:
        """The first of its functions in the emitted module; they stand together, and the launched one is the last."""
        ...

    @property
    def title(self) -> str:
        """What it is called in messages: "the kernel has no TITLE"."""
        ...

    @property
    def summary(self) -> str:
        """One line for `explain`."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of a `TileSchedule` that its tiles cannot choose."""
        ...

    @property
    def reserved(self) -> frozenset[str]:
        """Names that its text uses, which no tensor of a variant may have."""
        ...

    @property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """Module -> names that its text imports from it."""
        ...

    def why_ineligible(self, kernel: Kernel, prefetched: tuple[str, ...], exists: Guards) -> str:
        """Why a kernel has no such alternate; "" if it has one.

        Args:
            kernel: after all rewrites.
            prefetched: its dots that can be issued an iteration ahead.
            exists: for each step the predicate of what it computes or reduces.
        """
        ...

    def check(self, extents: Mapping[str, int], dtype: str, target: Target) -> None:
        """Refuse what it cannot run with.

        Args:
            extents: feature axis -> length.
            dtype: of the arguments, by its short name.
            target: where it shall run.

        Raises:
            ScheduleError: naming what it runs with.
        """
        ...

    def tiles(self, dtype: str, target: Target, length: str) -> tuple[tuple[int, int], ...]:
        """Tiles worth timing, of kernels that have it: streamed positions and stages of each, () where it does not run.

        Args:
            dtype, target: as for `check`.
            length: class of the lengths, a `LengthClass`.
        """
        ...

    def shared_bytes(self, resident: int, ring: int) -> int:
        """Bytes of shared memory of a program.

        Args:
            resident: bytes of the tiles that stay.
            ring: bytes of the streamed tiles, all stages.
        """
        ...

    def launch(self, num_warps: int, num_stages: int) -> AlternateLaunch:
        """How it is launched.

        Args:
            num_warps, num_stages: of its tile.
        """
        ...

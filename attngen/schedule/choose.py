"""Tiles for a program: a placeholder order of preference until measurements are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attngen.schedule.plan import ModuleSchedule, TileSchedule
from attngen.target import Target
from attngen.transform.partition import Kernel


@dataclass(frozen=True, slots=True)
class Choice:
    """A schedule with the reasons behind it, one line each."""

    schedule: ModuleSchedule
    reasons: tuple[str, ...] = ()


def choose(kernels: Sequence[Kernel], dims: Mapping[str, int], dtype: str, target: Target, lengths: tuple[int, int] | None = None) -> Choice:
    """The same moderate tile for every kernel."""
    return Choice(ModuleSchedule(tuple((k.role, TileSchedule(64, None if k.streamed is None else 64, 4, 2)) for k in kernels)))

"""Tunes the kernels of a variant: times the scheduler's best candidates on the local GPU.

Takes the `Kernels` of a variant, gives `Tuned` rows. Forward and backward are timed as whole calls in which only the tile of one kernel
varies, one kernel after the other. Lengths fill several waves, one set for each length class. A candidate must reproduce the results of the
default tile before it is timed. Each row is reported at once, and alternate kernels come last, for they may never have run on a GPU: a tile
may hang or crash the device. The clock is an argument, so that tests need no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from attngen.errors import CompileFailed, DeviceLost
from attngen.facts.work import Structure
from attngen.plan.programs import ProgramKey
from attngen.report.accuracy import shortened
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Choice, Request, choose, distinct, rank
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.space import LengthClass, alternate_tiles, length_class
from attngen.schedule.tables import table
from attngen.schedule.tile_schedule import BLOCKS, ModuleSchedule, TileSchedule
from attngen.schedule.tuned import Tuned
from attngen.targets.table import Target
from attngen.tuning.candidates import Attempt, Calls, check_values
from attngen.tuning.timing import answers, gpu_milliseconds

LENGTHS: Mapping[LengthClass, tuple[int, int]] = {"long": (4096, 4096), "short": (512, 512), "decode": (1, 8192)}
"""Queries and keys that represent a length class."""
WAVES = 8
"""Programs for each SM, at least, so that the last wave is negligible."""
MARGIN = 0.02
"""The share by which a tile must be faster than the default one to replace it."""
_SMALLEST_GRID = 2

Clock = Callable[[Attempt], float]
"""Milliseconds of an attempt; raises if it fails or gives other results."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A tile that could not be timed, and why."""

    role: str
    length: str
    tile: TileSchedule
    why: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """The winners, the tiles that did not run, and notes on omitted length classes."""

    rows: tuple[Tuned, ...]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """The target and device of a tuning. `name` is the device's, `triton` the version of Triton."""

    target: Target
    device: torch.device
    name: str
    triton: str
    leaders: int = 6


def gpu_clock(attempt: Attempt) -> float:
    """Check the results once, then time.

    Raises:
        CompileFailed: the results differ from those of the default tiles.
    """
    check_values(attempt)
    return gpu_milliseconds(attempt.run)


# ---- tuning


def tune_kernels(
    programs: KernelTable,
    captures: Mapping[str, Any],
    features: Mapping[str, int],
    dtype: str,
    setting: Setting,
    *,
    classes: Sequence[LengthClass] = ("long", "short", "decode"),
    clock: Clock = gpu_clock,
    keep: Callable[[Tuned], object] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Time the best candidates of every kernel, and after all of them the tiles of alternate kernels.

    Args:
        programs: of the variant.
        captures: values of the captured inputs, on any device.
        features: lengths of the feature axes.
        dtype: of the arguments, by its short name.
        setting: target and device.
        classes: length classes.
        clock: times one attempt.
        keep: called with each row at once; a later row of the same kernel and class replaces it.
        progress: called with one line for each row.

    Raises:
        CompileFailed: no tile of a kernel runs. DoesNotFit: none fits. DeviceLost: a tile crashed the device.
    """
    kernels = programs.kernels(ProgramKey(dtype))
    rows: dict[tuple[str, str], Tuned] = {}
    lost: list[Lost] = []
    notes: list[str] = []
    last: list[tuple[_Timed, tuple[TileSchedule, ...]]] = []

    def timed(one: _Timed, tiles: Sequence[TileSchedule]) -> None:
        lost.extend(one.time(tiles, setting, clock))
        row = rows[one.request.length, one.kernel.role] = one.row(setting)
        keep(row)
        progress(f"{kernels.name} {dtype} {row.length} {one.kernel.role}: {row.tile}, {row.call_us:.0f} us a call")

    for length in classes:
        extents = filled(kernels, captures, features, length, setting.target)
        if extents is None:
            notes.append(f"{length}: omitted, captured tensors are too short for {' x '.join(map(str, LENGTHS[length]))} tokens")
            continue
        request = Request(tuple(features.items()), dtype, setting.target, length)
        for form, roles in _forms(programs.forms(dtype)):
            calls = Calls(form, captures, request, extents, setting.device)
            usual = choose(form.program.facts, request, table())
            best = usual.schedule
            for kernel in (item.work for item in form.program.facts if item.role in roles):
                one = _Timed(kernel, request, usual, best, calls)
                timed(one, leaders(kernel, usual, request, setting.leaders))
                best = best.replace({kernel.role: one.winner})
                alternates = _alternates(kernel, request)
                last += [(one, alternates)] if alternates else []
    for one, tiles in last:
        timed(one, tiles)
    return Tuning(tuple(rows.values()), tuple(lost), tuple(notes))


def _forms(forms: Sequence[Kernels]) -> Iterator[tuple[Kernels, frozenset[str]]]:
    """The split and the fused backward, each with the roles to tune: all, and those only the fused one has."""
    known: frozenset[str] = frozenset()
    for kernels in forms:
        mine = frozenset(kernel.role for kernel in kernels.program.kernels)
        yield kernels, mine - known
        known |= mine


def filled(
    kernels: Kernels, captures: Mapping[str, Any], features: Mapping[str, int], length: LengthClass, target: Target
) -> dict[str, int] | None:
    """Lengths of all axes that fill the target; None where captured tensors are too short for the length class."""
    cascade, streamed = kernels.program.cascade, kernels.program.streamed
    sequences = dict(zip((streamed.resident, streamed.streamed), LENGTHS[length], strict=True))
    grid = [
        axis for axis in dict.fromkeys(axis for item in cascade.inputs for axis in item.axes or ()) if axis not in {**sequences, **features}
    ]
    found = shortened(cascade, captures, {**dict.fromkeys(grid, _SMALLEST_GRID), **features, **sequences})
    q_len, kv_len = found[streamed.resident], found[streamed.streamed]
    if length_class(q_len, kv_len) != length or (length == "decode" and kv_len < LENGTHS[length][1] // 2):
        return None
    largest = max(block for block in BLOCKS if block <= max(q_len, min(BLOCKS)) and block <= 128)
    wanted = WAVES * target.sms / max(1, -(-q_len // largest))
    for axis in grid:
        others = _product(found, grid) // found[axis]
        if others * found[axis] < wanted:
            found = shortened(cascade, captures, {**found, axis: -int(-wanted // others)})
    return found


def _product(lengths: Mapping[str, int], axes: Sequence[str]) -> int:
    total = 1
    for axis in axes:
        total *= lengths[axis]
    return total


@dataclass
class _Timed:
    """One kernel for one length class, with the times of its tiles; `schedule` has the winners of the kernels before it."""

    kernel: Structure
    request: Request
    usual: Choice
    schedule: ModuleSchedule
    calls: Calls
    times: dict[TileSchedule, float] = field(default_factory=dict[TileSchedule, float])

    @property
    def winner(self) -> TileSchedule:
        """The best of the tiles so far."""
        return winner(self.times, self.usual.schedule[self.kernel.role])

    def time(self, tiles: Sequence[TileSchedule], setting: Setting, clock: Clock) -> list[Lost]:
        """Time more tiles; returns those that did not run.

        Raises:
            CompileFailed: none has run. DeviceLost: the device does not respond after a failure.
        """
        role, lost, first = self.kernel.role, list[Lost](), None
        for tile in tiles:
            try:
                self.times[tile] = clock(self.calls.attempt(role, tile, self.schedule, self.usual.schedule))
            except Exception as error:  # a tile may fail in any way; failures are reported
                why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                if not answers(setting.device):
                    rule = f"{setting.name} does not respond after {role} with {tile}, {self.request.length}: {why}"
                    raise DeviceLost(rule, remedy="Earlier results are kept; skip tiles with --length and --leaders.") from error
                first = first or error
                lost.append(Lost(role, self.request.length, tile, why))
        if not self.times:
            raise CompileFailed(f"no tile of {role} runs on {setting.name}: {lost[0].why}") from first
        return lost

    def row(self, setting: Setting) -> Tuned:
        """The row for the table."""
        return _row(self.kernel, self.request, self.times, self.winner, self.usual.schedule[self.kernel.role], setting)


def leaders(kernel: Structure, usual: Choice, request: Request, count: int) -> tuple[TileSchedule, ...]:
    """Candidates to time: the default tile, its alternative in the table, its fallback, the first of the ranking."""
    reason = next(reason for reason in usual.reasons if reason.role == kernel.role)
    beside = [reason.alternative.schedule] if reason.alternative is not None else []
    beside += [reason.fallback] if reason.fallback is not None else []
    fitting = [item.tile for item in distinct(rank(kernel, request)) if item.cost.shared_bytes <= request.target.shared_bytes]
    return tuple(dict.fromkeys((reason.tile, *beside, *fitting[:count])))


def _alternates(kernel: Structure, request: Request) -> tuple[TileSchedule, ...]:
    """Tiles of alternate kernels that fit; only tuning chooses them."""
    limit = request.target.shared_bytes
    tiles = alternate_tiles(kernel, request.dtype, request.target, request.length)
    return tuple(tile for tile in tiles if shared_bytes(kernel, request.extents, request.dtype, tile, request.target) <= limit)


def winner(times: Mapping[TileSchedule, float], usual: TileSchedule) -> TileSchedule:
    """The fastest tile, or the default one if it is slower by less than `MARGIN`."""
    fastest = min(times, key=lambda tile: times[tile])
    return usual if usual in times and times[fastest] >= (1 - MARGIN) * times[usual] else fastest


def _row(
    kernel: Structure, request: Request, times: Mapping[TileSchedule, float], tile: TileSchedule, usual: TileSchedule, setting: Setting
) -> Tuned:
    special, simple = kernel.arithmetic
    return Tuned(
        arch=request.target.name,
        dtype=request.dtype,
        length=request.length,
        structure=kernel.key(request.extents),
        special=special,
        simple=simple,
        dims=",".join(str(length) for axis, length in request.dims if axis in kernel.features),
        tile=str(tile),
        call_us=round(1e3 * times[tile], 2),
        usual=str(usual),
        usual_us=round(1e3 * times[usual], 2) if usual in times else None,
        tried=len(times),
        device=setting.name,
        triton=setting.triton,
    )

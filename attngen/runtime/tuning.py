"""Tiles by the clock: the scheduler's leaders for each kernel of a variant, run on the GPU at hand.

Takes the `Kernels` of a variant, gives `Tuned` rows. The forward and the backward are timed as whole calls in which the tile of one kernel
varies and the others stand; kernels are taken one after the other. Lengths fill several waves of programs, one set for each class of
lengths. A tile must give the values that the usual one gives before it is timed. The clock is an argument, so that tests need no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attngen.emit.names import tensor_name
from attngen.errors import CompileFailed
from attngen.ir.cascade import Input
from attngen.runtime.kernels import Kernels
from attngen.runtime.timing import gpu_milliseconds
from attngen.runtime.trial import shortened
from attngen.schedule.choose import Choice, Request, choose, distinct, rank
from attngen.schedule.measured import table
from attngen.schedule.memory import shared_bytes
from attngen.schedule.plan import BLOCKS, ModuleSchedule, TileSchedule
from attngen.schedule.space import LengthClass, length_class, specialised_tiles
from attngen.schedule.structure import structure
from attngen.schedule.tuned import Tuned
from attngen.target import Target
from attngen.transform.partition import Kernel

LENGTHS: Mapping[LengthClass, tuple[int, int]] = {"long": (4096, 4096), "short": (512, 512), "decode": (1, 8192)}
"""Queries and keys that stand for a class."""
WAVES = 8
"""So many times a program for each SM, or more, so that the last wave weighs little."""
MARGIN = 0.02
"""A tile that is faster than the usual one by less than this share does not replace it."""
# Of the root mean square: tiles sum in another order, and round products in the tensors' dtype.
_DIFFERENCE = 0.02
_SMALLEST_GRID = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """One tile of one kernel: `run` launches the call and gives what it computed, `right` is what the usual tiles gave."""

    role: str
    tile: TileSchedule
    run: Callable[[], Mapping[str, Tensor]]
    right: Callable[[], Mapping[str, Tensor]]


Clock = Callable[[Attempt], float]
"""Milliseconds of an attempt; raises where it does not run or computes something else."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A tile that could not be timed, and why."""

    role: str
    length: str
    tile: TileSchedule
    why: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """The winners, the tiles that did not run, and remarks on classes of lengths that were left out."""

    rows: tuple[Tuned, ...]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned on which device. `name` is the device's, `triton` its version."""

    target: Target
    device: torch.device
    name: str
    triton: str
    leaders: int = 6


def gpu_clock(attempt: Attempt) -> float:
    """Check the values once, then time.

    Raises:
        CompileFailed: the tile computes something else than the usual one does.
    """
    check_values(attempt)
    return gpu_milliseconds(attempt.run)


def check_values(attempt: Attempt) -> None:
    """Hold what a tile computes to what the usual one does.

    Raises:
        CompileFailed: they differ by more than rounding.
    """
    found, right = attempt.run(), attempt.right()
    for name, value in found.items():
        # Rows that attend to nothing have infinite statistics, which must be the same ones.
        difference = torch.where(value == right[name], 0.0, value.double() - right[name].double())
        allowed = _DIFFERENCE * _mean(right[name][right[name].isfinite()])
        if not _mean(difference) <= allowed:
            raise CompileFailed(f"{attempt.role} with {attempt.tile} gives other values of {name} than the usual tile")


def _mean(values: Tensor) -> float:
    """Root mean square, 0 of nothing."""
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0


# ---- tuning


def tune_kernels(
    kernels: Kernels,
    captures: Mapping[str, Any],
    features: Mapping[str, int],
    dtype: str,
    setting: Setting,
    *,
    classes: Sequence[LengthClass] = ("long", "short", "decode"),
    clock: Clock = gpu_clock,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Time the leaders of every kernel.

    Args:
        kernels: of the variant.
        captures: values of the captured inputs, on any device.
        features: lengths of the feature axes.
        dtype: of the arguments, by its short name.
        setting: where it runs.
        classes: of lengths.
        clock: times one attempt.
        progress: called with one line for each kernel.

    Raises:
        CompileFailed: no tile of a kernel runs. DoesNotFit: none fits.
    """
    kernels = kernels.at(dtype)
    rows: list[Tuned] = []
    lost: list[Lost] = []
    notes: list[str] = []
    for length in classes:
        extents = filled(kernels, captures, features, length, setting.target)
        if extents is None:
            notes.append(f"{length}: left out, captured tensors are too short for {' x '.join(map(str, LENGTHS[length]))} tokens")
            continue
        request = Request(tuple(features.items()), dtype, setting.target, length)
        for form, roles in _forms(kernels):
            calls = _Calls(form, captures, request, extents, setting.device)
            for row, failed in _tuned_roles(form, roles, request, calls, setting, clock):
                rows.append(row)
                lost += failed
                progress(f"{form.name} {dtype} {length} {row.structure.partition(':')[0]}: {row.tile}, {row.call_us:.0f} us a call")
    return Tuning(tuple(rows), tuple(lost), tuple(notes))


def _forms(kernels: Kernels) -> Iterator[tuple[Kernels, frozenset[str]]]:
    """Both forms of the backward, each with the kernels that the one before it has not."""
    mine = frozenset(kernel.role for kernel in kernels.program.kernels)
    yield kernels, mine
    other = kernels.fused()
    if other is not None:
        yield other, frozenset(kernel.role for kernel in other.program.kernels) - mine


def filled(
    kernels: Kernels, captures: Mapping[str, Any], features: Mapping[str, int], length: LengthClass, target: Target
) -> dict[str, int] | None:
    """A length for every axis that fills the target; None where captured tensors keep sequences out of the class."""
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


def _tuned_roles(
    kernels: Kernels, roles: frozenset[str], request: Request, calls: _Calls, setting: Setting, clock: Clock
) -> Iterator[tuple[Tuned, list[Lost]]]:
    """One row for each kernel of these roles, the tiles of those before it standing as they were found."""
    usual = choose(kernels.program.kernels, request, table())
    best = usual.schedule
    for kernel in (kernel for kernel in kernels.program.kernels if kernel.role in roles):
        role = kernel.role
        times: dict[TileSchedule, float] = {}
        lost: list[Lost] = []
        first: Exception | None = None
        for tile in leaders(kernel, usual, request, setting.leaders):
            try:
                times[tile] = clock(calls.attempt(role, tile, best, usual.schedule))
            except Exception as error:  # a tile may fail in any way; what failed is reported
                first = first or error
                lost.append(Lost(role, request.length, tile, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
        if not times:
            raise CompileFailed(f"no tile of {role} runs on {setting.name}: {lost[0].why}") from first
        tile = winner(times, usual.schedule[role])
        best = best.replace({role: tile})
        yield _row(kernel, request, times, tile, usual.schedule[role], setting), lost


def leaders(kernel: Kernel, usual: Choice, request: Request, count: int) -> tuple[TileSchedule, ...]:
    """Tiles worth running: the usual one, what stands beside it in the table, its fallback, the first of the ranking, and those of the
    warp-specialised form, which nothing but a clock chooses."""
    reason = next(reason for reason in usual.reasons if reason.role == kernel.role)
    beside = [reason.alternative.schedule] if reason.alternative is not None else []
    beside += [reason.fallback] if reason.fallback is not None else []
    held, limit = structure(kernel), request.target.shared_bytes
    fitting = [item.tile for item in distinct(rank(held, request)) if item.cost.shared_bytes <= limit]
    specialised = specialised_tiles(held, request.dtype, request.target, request.length)
    roomy = [tile for tile in specialised if shared_bytes(held, request.extents, request.dtype, tile, request.target) <= limit]
    return tuple(dict.fromkeys((reason.tile, *beside, *fitting[:count], *roomy)))


def winner(times: Mapping[TileSchedule, float], usual: TileSchedule) -> TileSchedule:
    """The fastest tile, or the usual one where it is hardly slower."""
    fastest = min(times, key=lambda tile: times[tile])
    return usual if usual in times and times[fastest] >= (1 - MARGIN) * times[usual] else fastest


def _row(
    kernel: Kernel, request: Request, times: Mapping[TileSchedule, float], tile: TileSchedule, usual: TileSchedule, setting: Setting
) -> Tuned:
    held = structure(kernel)
    special, simple = held.arithmetic
    return Tuned(
        arch=request.target.name,
        dtype=request.dtype,
        length=request.length,
        structure=held.key(request.extents),
        special=special,
        simple=simple,
        dims=",".join(str(length) for axis, length in request.dims if axis in held.features),
        tile=str(tile),
        call_us=round(1e3 * times[tile], 2),
        usual=str(usual),
        usual_us=round(1e3 * times[usual], 2) if usual in times else None,
        tried=len(times),
        device=setting.name,
        triton=setting.triton,
    )


# ---- calls


class _Calls:
    """The calls of one module with values of its own, made when the first of them runs."""

    def __init__(
        self, kernels: Kernels, captures: Mapping[str, Any], request: Request, extents: Mapping[str, int], device: torch.device
    ) -> None:
        self.kernels, self.captures, self.request, self.extents, self.device = kernels, captures, request, extents, device
        self.program = kernels.program
        # Values are drawn and the module is loaded once, and not before something runs.
        self.inputs, self.module, self.given = cache(self._inputs), cache(self._module), cache(self._given)
        self.right = cache(self._run)

    def attempt(self, role: str, tile: TileSchedule, schedule: ModuleSchedule, usual: ModuleSchedule) -> Attempt:
        """The call in which `role` runs with `tile` and the others as in `schedule`."""
        changed, backward = schedule.replace({role: tile}), role.startswith("backward")
        return Attempt(role, tile, lambda: self._run(backward, changed, usual), lambda: self.right(backward, usual, usual))

    def _run(self, backward: bool, schedule: ModuleSchedule, usual: ModuleSchedule) -> Mapping[str, Tensor]:
        tiles = schedule.as_tiles(self.program.kernels)
        if not backward:
            return self._forward(tiles)
        wanted = {str(tensor_name(item.name)) for item in self.program.cascade.inputs if item.differentiable}
        found: Mapping[str, Tensor] = self.module().backward(*self.inputs(), *self.given(usual), tiles, wanted)
        return found

    def _forward(self, tiles: Mapping[str, Mapping[str, int]]) -> dict[str, Tensor]:
        result = self.module().forward(*self.inputs(), tiles)
        names = dict.fromkeys((*self.program.cascade.outputs, *self.kernels.saved))
        return dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))

    def _given(self, usual: ModuleSchedule) -> list[Tensor]:
        """What the backward takes besides the inputs: saved tensors and cotangents."""
        assert self.program.backward is not None, "roles of a backward come from one"
        steps = self._forward(usual.as_tiles(self.program.kernels))
        generator = torch.Generator(self.device).manual_seed(1)
        shapes = [steps[output] for output, _ in self.program.backward.cotangents]
        cotangents = [torch.randn(like.shape, generator=generator, dtype=like.dtype, device=self.device) for like in shapes]
        return [*(steps[item.name] for item in self.program.backward.saved), *cotangents]

    def _module(self) -> Any:
        kernels, dims = self.kernels, self.request.extents
        structures, request = map(structure, kernels.program.kernels), self.request
        specialised = any(specialised_tiles(held, request.dtype, request.target, request.length) for held in structures)
        return kernels.module(kernels.source(dims, specialised), self.device.type == "cpu", self.request.target, dims, self.request.dtype)

    def _inputs(self) -> list[Any]:
        generator = torch.Generator(self.device).manual_seed(0)
        return [self._value(item, generator) for item in self.program.cascade.inputs]

    def _value(self, item: Input, generator: torch.Generator) -> Any:
        if item.axes is None:
            value = self.captures[item.name]
            return value.detach().to(self.device) if isinstance(value, Tensor) else value
        shape = [self.extents[axis] for axis in item.axes]
        if item.kind == "float":
            return torch.randn(shape, generator=generator, dtype=getattr(torch, self.request.dtype), device=self.device)
        kind = torch.int32 if item.kind == "int" else torch.bool
        return torch.randint(0, 2, shape, generator=generator, device=self.device).to(kind)

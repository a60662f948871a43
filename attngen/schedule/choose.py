"""Chooses the tile of each kernel, with the reason.

Takes kernels, gives a `Choice`: a `ModuleSchedule` and a `Reason` for each kernel. In order of preference a choice rests on GPU timings,
on compiled resources in the table of measurements, or on the cost model; `evidence` records which, and a choice by the model alone is
settled by a compile at run time. Losing candidates are kept with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attngen.alternates.known_alternates import ALTERNATES
from attngen.facts.kernel_facts import KernelFacts
from attngen.facts.work import Structure
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.cost.time import CompiledCost, price
from attngen.schedule.ranking import SINGLE_STAGE_PENALTY, Candidate, Refused, Request, distinct, does_not_fit, rank, skip_refused
from attngen.schedule.tables import Measured, Table
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule, check_alternates, override
from attngen.schedule.tuned import Tuned, TunedTable

__all__ = ["SINGLE_STAGE_PENALTY", "Candidate", "Choice", "Reason", "Request", "choose", "distinct", "does_not_fit", "rank", "with_asked"]

Evidence = Literal["tuned", "measured", "similar", "model"]
_KEPT_CANDIDATES = 6
_FORMS = {
    "pipe": "software-pipelined: the dots of the next tile overlap the softmax of this one",
    "late": "issued after the maximum of this one",
    "tma": "tiles are loaded by tensor descriptors where their tensors are aligned, else by pointers",
    **{flag: alternate.summary for flag, alternate in ALTERNATES.items()},
}
# A fallback needs at most this share of the registers of the tile it replaces.
_FALLBACK_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a kernel has its tile.

    Attributes:
        role: of the kernel.
        tile: what was chosen.
        evidence: "tuned" if this exact structure was timed on the target, "measured" if it was compiled for it, "similar" if a row of a
            related target, dtype or arithmetic was used, "model" without a row.
        row: the measurement, if any.
        alternative: a tile that does not spill, where the chosen one does.
        fallback: the next candidate with clearly fewer registers, in case the chosen one spills or serialises when compiled.
        candidates: the chosen one and the runners-up, with why they lost.
        timed: the tuned row, if any.
        predicted_us: time of the reference problem, with compiled registers and spills where known.
    """

    role: str
    tile: TileSchedule
    evidence: Evidence
    row: Measured | None
    alternative: Measured | None
    fallback: TileSchedule | None
    candidates: tuple[Candidate, ...]
    timed: Tuned | None = None
    predicted_us: float = 0.0

    def lines(self, runs: TileSchedule | None = None) -> tuple[str, ...]:
        """Text for `explain`; `runs` is the tile the kernel runs with, where the user set another."""
        runs = runs or self.tile
        asked = "" if runs == self.tile else f"{runs}, set by schedule=, instead of "
        head = f"{self.role}: {asked}{self.tile} ({self.evidence})"
        if self.timed is not None:
            timed = self.timed
            usual = "which does not run" if timed.usual_us is None else f"{timed.usual_us:.0f} us"
            head += f": {timed.call_us:.0f} us a call, {timed.usual} {usual}, best of {timed.tried} timed on {timed.device}"
        elif self.row is not None:
            row = self.row
            head += f": {row.registers} registers, {row.spill_bytes} B spilled, {row.shared_bytes} B shared, compiled for {row.arch}"
        lines = [head, *(f"  {flag}: {_FORMS[flag]}" for flag in runs.flags)]
        if self.alternative is not None:
            lines.append(f"  without spills: {self.alternative.tile}, {self.alternative.registers} registers")
        return (*lines, *(f"  {candidate}" for candidate in self.candidates))


@dataclass(frozen=True, slots=True)
class Choice:
    """A module's schedule with the reason for each of its tiles.

    Attributes:
        schedule, reasons: in the order of the kernels.
        asked: roles whose tile the user set; their reasons are for the default tile.
        doubtful: those of them predicted to exceed the shared memory.
    """

    schedule: ModuleSchedule
    reasons: tuple[Reason, ...]
    asked: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Roles whose tile has no measurement of its own, or may not fit."""
        open_ = (reason.role for reason in self.reasons if reason.evidence not in ("tuned", "measured") and reason.role not in self.asked)
        return (*open_, *self.doubtful)

    def lines(self) -> tuple[str, ...]:
        """Text for `explain`."""
        return tuple(line for reason in self.reasons for line in reason.lines(self.schedule[reason.role]))

    def heads(self) -> tuple[str, ...]:
        """The first line for each kernel."""
        return tuple(reason.lines(self.schedule[reason.role])[0] for reason in self.reasons)


def nothing_refused(role: str, tile: TileSchedule) -> str:
    """Of a tile that no compiler failed on."""
    del role, tile
    return ""


def choose(
    facts: Iterable[KernelFacts], request: Request, measured: Table, tuned: TunedTable | None = None, refused: Refused = nothing_refused
) -> Choice:
    """Give every kernel a tile.

    Args:
        facts: of the kernels of one module.
        request: extents, dtype, target and length class.
        measured: compiled resources.
        tuned: GPU timings, which take precedence.
        refused: tiles on which the compiler failed, to be replaced by others.

    Raises:
        DoesNotFit: a kernel's smallest tile exceeds the shared memory of a program; names the bytes and the head dim that fits.
        CompileFailed: too many tiles of a kernel were refused.
    """
    reasons = tuple(_reason(item.work, request, measured, tuned or TunedTable(), refused) for item in facts)
    return Choice(ModuleSchedule(tuple((reason.role, reason.tile) for reason in reasons)), reasons)


def with_asked(choice: Choice, facts: Sequence[KernelFacts], request: Request, given: object) -> Choice:
    """A choice with a user's tiles, which no others replace.

    Args:
        choice: what would run without them.
        facts, request: that it was made for.
        given: the user's `schedule=`, as `override` takes it.

    Raises:
        ScheduleError: the user's tiles are illegal.
    """
    schedule = override(choice.schedule, facts, given)
    check_alternates(schedule, request.extents, request.dtype, request.target)
    asked = tuple(role for role, tile in schedule.tiles if tile != choice.schedule[role])
    held = {item.role: item.work for item in facts}
    needs = {role: shared_bytes(held[role], request.extents, request.dtype, schedule[role], request.target) for role in asked}
    doubtful = tuple(role for role in asked if request.dtype != "float64" and needs[role] > request.target.shared_bytes)
    reasons = tuple(replace(reason, fallback=None) if reason.role in asked else reason for reason in choice.reasons)
    return Choice(schedule, reasons, asked, doubtful)


def _reason(kernel: Structure, request: Request, measured: Table, tuned: TunedTable, refused: Refused) -> Reason:
    row = measured.find(request.target.name, request.dtype, request.length, kernel.key(request.extents), kernel.arithmetic)
    timed = tuned.find(request.target.name, request.dtype, request.length, kernel, request.extents)
    if timed is not None and timed.schedule.alternate and timed.schedule.alternate not in kernel.alternates:
        timed = None
    known = (timed.schedule if timed is not None else None, row.schedule if row is not None else None)
    ranked, failed = skip_refused(rank(kernel, request), known, kernel, request, refused)
    gone = {item.tile for item in failed}
    timed = None if timed is None or timed.schedule in gone else timed
    reason = _chosen(kernel, request, measured, ranked, timed, None if row is None or row.schedule in gone else row)
    if reason.fallback is not None and refused(kernel.role, reason.fallback):
        standing = tuple(item for item in ranked if item.tile == reason.tile or not refused(kernel.role, item.tile))
        reason = replace(reason, fallback=_fallback(standing, reason.candidates[0]))
    return replace(reason, candidates=(*reason.candidates, *failed)) if failed else reason


def _chosen(
    kernel: Structure, request: Request, measured: Table, ranked: tuple[Candidate, ...], timed: Tuned | None, row: Measured | None
) -> Reason:
    if timed is not None:
        return _timed(kernel, request, ranked, timed, row)
    others = distinct(ranked)
    if row is None:
        tile = ranked[0].tile
        leaders, predicted = others[:_KEPT_CANDIDATES], ranked[0].cost.total_us
        return Reason(kernel.role, tile, "model", None, None, _fallback(ranked, ranked[0]), leaders, predicted_us=predicted)
    tile = row.schedule
    same = (row.special, row.simple) == kernel.arithmetic and (row.arch, row.dtype) == (request.target.name, request.dtype)
    chosen = Candidate(tile, price(kernel, request.extents, request.dtype, tile, request.target, request.length), "")
    losers: list[Candidate] = []
    for item in others:
        if item.tile != tile:
            faster = item.cost.total_us < chosen.cost.total_us
            losers.append(Candidate(item.tile, item.cost, "compiled: spills or serialises" if faster else item.lost or "slower"))
    evidence: Evidence = "measured" if same else "similar"
    candidates_ = (chosen, *losers[: _KEPT_CANDIDATES - 1])
    predicted = _predicted(kernel, request, tile, row)
    fallback = _fallback(ranked, chosen)
    return Reason(kernel.role, tile, evidence, row, measured.alternative(row), fallback, candidates_, predicted_us=predicted)


def _timed(kernel: Structure, request: Request, ranked: tuple[Candidate, ...], timed: Tuned, row: Measured | None) -> Reason:
    """The tile that was fastest on a GPU; the others were slower when timed, or predicted to be."""
    tile = timed.schedule
    chosen = Candidate(tile, price(kernel, request.extents, request.dtype, tile, request.target, request.length), "")
    losers = [Candidate(item.tile, item.cost, item.lost or "not faster when timed") for item in distinct(ranked) if item.tile != tile]
    candidates_ = (chosen, *losers[: _KEPT_CANDIDATES - 1])
    return Reason(
        kernel.role, tile, "tuned", None, None, _fallback(ranked, chosen), candidates_, timed, _predicted(kernel, request, tile, row)
    )


def _predicted(kernel: Structure, request: Request, tile: TileSchedule, row: Measured | None) -> float:
    """The predicted time of a tile, with compiled registers and spills if `row` is of this tile."""
    seen: CompiledCost | None = None
    if row is not None and row.schedule == tile:
        seen = CompiledCost(row.registers, row.shared_bytes, None, 0.0, row.loop_spill_bytes)
    return price(kernel, request.extents, request.dtype, tile, request.target, request.length, seen).total_us


def _fallback(ranked: tuple[Candidate, ...], chosen: Candidate) -> TileSchedule | None:
    limit = _FALLBACK_SHARE * chosen.cost.registers
    return next((item.tile for item in ranked if item.cost.registers <= limit and item.cost.shared_bytes <= chosen.cost.shared_bytes), None)

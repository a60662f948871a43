"""Which tile each kernel gets, and why.

Takes kernels without tiles, gives a `Choice`: a `ModuleSchedule` with one reason for each kernel. A choice rests on times where a GPU was
asked, on compiled numbers where the table of measurements has the kernel's structure; else the model's leader stands, and `evidence` says
so, for the runtime to settle it by a real compile. What lost is kept with the reason.
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
from attngen.schedule.ranking import UNSTAGED, Candidate, Refused, Request, distinct, does_not_fit, passed_over, rank
from attngen.schedule.tables import Measured, Table
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule, check_alternates, override
from attngen.schedule.tuned import Tuned, TunedTable

__all__ = ["UNSTAGED", "Candidate", "Choice", "Reason", "Request", "choose", "distinct", "does_not_fit", "rank", "with_asked"]

Evidence = Literal["tuned", "measured", "similar", "model"]
_KEPT_CANDIDATES = 6
_FORMS = {
    "pipe": "the products of the next tile are formed beside the weights of this one",
    "late": "behind the maximum of this one",
    "tma": "tiles come by tensor descriptors where their tensors are aligned, else by pointers",
    **{flag: alternate.summary for flag, alternate in ALTERNATES.items()},
}
# A fallback has at most this share of the registers of what it replaces.
_FALLBACK_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a kernel has its tile.

    Attributes:
        role: of the kernel.
        tile: what was chosen.
        evidence: "tuned" if exactly this structure was timed on the target, "measured" if it was compiled for it, "similar" if the row is
            a sister's, "model" if none is.
        row: the measurement, if there is one.
        alternative: a tile that does not spill, where the chosen one does.
        fallback: the next candidate that needs clearly fewer registers, should a compile find the chosen one wanting.
        candidates: the chosen one and the next in order, with why they lost.
        timed: what a GPU said, where it was asked.
        predicted_us: time of the reference problem, with the registers and spills that a compile saw where there was one.
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
        """Text for `explain`; `document_extents` is what the kernel runs with, where a user asked for something else."""
        runs = runs or self.tile
        asked = "" if runs == self.tile else f"{runs}, which schedule= asks for instead of "
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
    """A schedule for a module and the reason behind each of its tiles, in the order of its kernels.

    Attributes:
        schedule, reasons: both.
        asked: roles whose tile is the user's, whatever the reason is for.
        doubtful: those of them that need more shared memory than there is, by the formula.
    """

    schedule: ModuleSchedule
    reasons: tuple[Reason, ...]
    asked: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Roles whose tile rests on no measurement of its own, or may not fit."""
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
        request: what they are for.
        measured: the table that choices rest on.
        tuned: what GPUs said, which goes before it.
        refused: tiles that a compiler failed on, which others take the place of.

    Raises:
        DoesNotFit: the smallest tile of a kernel needs more shared memory than a program may have; names the bytes and a way out.
        CompileFailed: so many tiles of a kernel were refused that none will do.
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
    ranked, failed = passed_over(rank(kernel, request), known, kernel, request, refused)
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
    passed: list[Candidate] = []
    for item in others:
        if item.tile != tile:
            faster = item.cost.total_us < chosen.cost.total_us
            passed.append(Candidate(item.tile, item.cost, "compiled: spills or serialises" if faster else item.lost or "slower"))
    evidence: Evidence = "measured" if same else "similar"
    candidates_ = (chosen, *passed[: _KEPT_CANDIDATES - 1])
    predicted = _predicted(kernel, request, tile, row)
    fallback = _fallback(ranked, chosen)
    return Reason(kernel.role, tile, evidence, row, measured.alternative(row), fallback, candidates_, predicted_us=predicted)


def _timed(kernel: Structure, request: Request, ranked: tuple[Candidate, ...], timed: Tuned, row: Measured | None) -> Reason:
    """The tile that won on a GPU. What lost against it did so on the clock or was predicted to."""
    tile = timed.schedule
    chosen = Candidate(tile, price(kernel, request.extents, request.dtype, tile, request.target, request.length), "")
    passed = [Candidate(item.tile, item.cost, item.lost or "not faster when timed") for item in distinct(ranked) if item.tile != tile]
    candidates_ = (chosen, *passed[: _KEPT_CANDIDATES - 1])
    return Reason(
        kernel.role, tile, "tuned", None, None, _fallback(ranked, chosen), candidates_, timed, _predicted(kernel, request, tile, row)
    )


def _predicted(kernel: Structure, request: Request, tile: TileSchedule, row: Measured | None) -> float:
    """The predicted time of a tile, with what a compile saw of its registers and spills if `row` is about it."""
    seen: CompiledCost | None = None
    if row is not None and row.schedule == tile:
        seen = CompiledCost(row.registers, row.shared_bytes, None, 0.0, row.loop_spill_bytes)
    return price(kernel, request.extents, request.dtype, tile, request.target, request.length, seen).total_us


def _fallback(ranked: tuple[Candidate, ...], chosen: Candidate) -> TileSchedule | None:
    limit = _FALLBACK_SHARE * chosen.cost.registers
    return next((item.tile for item in ranked if item.cost.registers <= limit and item.cost.shared_bytes <= chosen.cost.shared_bytes), None)

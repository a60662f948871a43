"""Which form of a backward is cheaper: a kernel of rows and one of columns, or one that does the work of both.

Takes the choices of tiles for both forms, gives a `BackwardChoice`. The times are those of a GPU where both forms were tuned on it, else
those of the model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from attngen.kernel.fused_backward import COLUMNS, FINISH, FUSED, ROWS
from attngen.schedule.choose import Choice
from attngen.schedule.space import WIDE_ROWS, uses_wide_units
from attngen.schedule.tables import Measured
from attngen.targets import table as targets

SPILLED_BYTES = 32
"""What a thread may spill in a turn: the model sees the instructions of spills, not how long they are waited for."""
MARGIN = 0.1
"""The one walk has to be faster by this share: its results differ from run to run."""


@dataclass(frozen=True, slots=True)
class BackwardChoice:
    """Whether one walk is worth it, and why, for `explain`."""

    fused: bool
    why: str


def form_role(role: str) -> str:
    """A role without its number."""
    return role.rstrip("_0123456789")


def form_of(roles: Collection[str]) -> str:
    """Which form kernels of these roles belong to: "one walk" or "two walks"; "" where they belong to both forms, or to different ones."""
    bases = {form_role(role) for role in roles}
    found = {name for name, mine in (("one walk", {FUSED, FINISH}), ("two walks", {ROWS, COLUMNS})) if bases & mine}
    return found.pop() if len(found) == 1 else ""


def backward_us(choice: Choice) -> float:
    """The predicted time of a backward, in microseconds for the reference problem."""
    return sum(reason.predicted_us for reason in choice.reasons if reason.role != "forward")


def compare(two: Choice, one: Choice) -> BackwardChoice:
    """Hold the forms against each other.

    Args:
        two: tiles for the kernels of rows and of columns. one: for the fused kernel.
    """
    clocked = _clocked_us(two, (ROWS, COLUMNS, "backward_pairs")), _clocked_us(one, (FUSED, FINISH))
    if clocked[0] is not None and clocked[1] is not None:
        return _verdict(clocked[1], clocked[0], "us a call")
    unseen = next((reason.role for reason in one.reasons if reason.role.startswith(FUSED) and reason.evidence == "model"), None)
    if unseen is not None:
        return BackwardChoice(False, f"no compile has shown what {unseen} takes")
    rows = [reason.row for reason in one.reasons if reason.role.startswith(FUSED) and reason.row is not None]
    spilled = max((row.loop_spill_bytes for row in rows), default=0)
    if spilled > SPILLED_BYTES:
        return BackwardChoice(False, f"in one walk a thread spills {spilled} B a turn")
    low = next((row.schedule for row in rows if _adds_slowly(row)), None)
    if low is not None:
        return BackwardChoice(
            False, f"in one walk the older instruction of the matrix unit would form what {low} adds up, at half of its rate"
        )
    return _verdict(backward_us(one), backward_us(two), "us predicted")


def _adds_slowly(row: Measured) -> bool:
    """Whether what is added has too few rows for asynchronous products. The model of time does not see all that comes of it: compiled for
    D = 128 on sm90, loops of 128x32 promise no less time than two walks, where it predicts a fifth less."""
    tile = row.schedule
    return uses_wide_units(tile, row.dtype, targets.get(row.arch)) and (tile.streamed or 0) < WIDE_ROWS


def _clocked_us(choice: Choice, roles: tuple[str, ...]) -> float | None:
    """What a GPU took for a whole backward with the last of these kernels at its best tile; None where one was not timed."""
    mine = [reason.timed for reason in choice.reasons if form_role(reason.role) in roles]
    return mine[-1].call_us if mine and mine[-1] is not None and all(timed is not None for timed in mine) else None


def _verdict(together: float, apart: float, unit: str) -> BackwardChoice:
    text = f"{together:.0f} {unit} in one walk, {apart:.0f} in two"
    if together <= (1 - MARGIN) * apart:
        return BackwardChoice(True, text)
    return BackwardChoice(False, f"{text}; one walk, whose sums come in any order, has to save {MARGIN:.0%}")

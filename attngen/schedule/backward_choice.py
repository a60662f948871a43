"""Chooses between the split backward (dQ kernel and dK/dV kernel, 7 matmuls a tile) and the fused one (5 matmuls, dQ by atomics).

Takes the tile choices of both forms, gives a `BackwardChoice`. Compares GPU timings where both forms were tuned, else predicted times.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from attngen.kernel.fused_backward import COLUMNS, FINISH, FUSED, ROWS
from attngen.schedule.choose import Choice
from attngen.schedule.space import WIDE_ROWS, uses_wide_units
from attngen.schedule.tables import Measured
from attngen.targets import table as targets

SPILLED_BYTES = 32
"""Bytes a thread may spill in an iteration of the fused kernel: the model counts the instructions of spills, not their latency."""
MARGIN = 0.1
"""The share by which the fused backward must be faster, since its results are not deterministic."""

Form = Literal["fused", "split", ""]


@dataclass(frozen=True, slots=True)
class BackwardChoice:
    """Whether the fused backward is chosen, and why, for `explain`."""

    fused: bool
    why: str


def form_role(role: str) -> str:
    """A role without its number."""
    return role.rstrip("_0123456789")


def form_of(roles: Collection[str]) -> Form:
    """The only form that has kernels of these roles; "" where both do, or the roles belong to different forms."""
    bases = {form_role(role) for role in roles}
    fused, split = bool(bases & {FUSED, FINISH}), bool(bases & {ROWS, COLUMNS})
    if fused == split:
        return ""
    return "fused" if fused else "split"


def backward_us(choice: Choice) -> float:
    """The predicted time of a backward, in microseconds for the reference problem."""
    return sum(reason.predicted_us for reason in choice.reasons if reason.role != "forward")


def compare(split: Choice, fused: Choice) -> BackwardChoice:
    """Choose the faster form.

    Args:
        split: tiles of the dQ kernel and the dK/dV kernel. fused: of the fused kernel.
    """
    timed = _timed_us(split, (ROWS, COLUMNS, "backward_pairs")), _timed_us(fused, (FUSED, FINISH))
    if timed[0] is not None and timed[1] is not None:
        return _verdict(timed[1], timed[0], "us a call")
    unseen = next((reason.role for reason in fused.reasons if reason.role.startswith(FUSED) and reason.evidence == "model"), None)
    if unseen is not None:
        return BackwardChoice(False, f"{unseen} has not been compiled")
    rows = [reason.row for reason in fused.reasons if reason.role.startswith(FUSED) and reason.row is not None]
    spilled = max((row.loop_spill_bytes for row in rows), default=0)
    if spilled > SPILLED_BYTES:
        return BackwardChoice(False, f"the fused kernel spills {spilled} B a thread in each iteration")
    low = next((row.schedule for row in rows if _is_mma(row)), None)
    if low is not None:
        return BackwardChoice(False, f"the fused kernel would form dq by mma instead of wgmma at {low}, at half of the rate")
    return _verdict(backward_us(fused), backward_us(split), "us predicted")


def _is_mma(row: Measured) -> bool:
    """Whether the tile of dq has too few rows for asynchronous products. The model underestimates the cost: compiled for D = 128 on sm90,
    128x32 loops are no faster than the split backward, while it predicts a fifth less."""
    tile = row.schedule
    return uses_wide_units(tile, row.dtype, targets.get(row.arch)) and (tile.streamed or 0) < WIDE_ROWS


def _timed_us(choice: Choice, roles: tuple[str, ...]) -> float | None:
    """GPU time of a whole backward with the last of these kernels at its best tile; None where one was not timed."""
    mine = [reason.timed for reason in choice.reasons if form_role(reason.role) in roles]
    return mine[-1].call_us if mine and mine[-1] is not None and all(timed is not None for timed in mine) else None


def _verdict(fused: float, split: float, unit: str) -> BackwardChoice:
    text = f"{fused:.0f} {unit} fused, {split:.0f} split"
    if fused <= (1 - MARGIN) * split:
        return BackwardChoice(True, text)
    return BackwardChoice(False, f"{text}; the fused form, which is not deterministic, has to save {MARGIN:.0%}")

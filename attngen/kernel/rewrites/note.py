"""Reports of kernel rewrites: where they applied and what that saves, or why they did not apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """The outcome of a rewrite for one step of one kernel.

    Attributes:
        step: name of the step.
        role: that of the kernel.
        applied: whether the rewrite applied.
        text: the saving, or the reason against it.
    """

    step: str
    role: str
    applied: bool
    text: str


def told(name: str, notes: Iterable[Note]) -> tuple[str, ...]:
    """One line for each outcome, with all kernels that share it."""
    roles: dict[tuple[str, bool, str], list[str]] = {}
    for note in notes:
        roles.setdefault((note.step, note.applied, note.text), []).append(note.role)
    return tuple(
        f"{name}: {step} in {', '.join(where)}: {text}" if applied else f"{name}: not {step} in {', '.join(where)}, for {text}"
        for (step, applied, text), where in roles.items()
    )

"""What rewrites of kernels report: where they applied, what that saves, and where they did not, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """A rewrite of one step of one kernel.

    Attributes:
        step: which one.
        role: of the kernel.
        applied: whether it was done.
        text: what it saves, or why it was not done.
    """

    step: str
    role: str
    applied: bool
    text: str


def told(name: str, notes: Iterable[Note]) -> tuple[str, ...]:
    """A line for all kernels in which the same happened to the same step."""
    roles: dict[tuple[str, bool, str], list[str]] = {}
    for note in notes:
        roles.setdefault((note.step, note.applied, note.text), []).append(note.role)
    return tuple(
        f"{name}: {step} in {', '.join(where)}: {text}" if applied else f"{name}: not {step} in {', '.join(where)}, for {text}"
        for (step, applied, text), where in roles.items()
    )

"""What a rewrite of kernels is, and what it reports: where it applied, what that saves, and where it did not, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attngen.kernel.kernel import Kernel


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


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewrite of kernels that changes neither meaning nor partition, the dtypes whose precision allows it (none for all), and what is
    done where a user asks for it by name, if that differs."""

    apply: Callable[[Kernel], tuple[Kernel, tuple[Note, ...]]]
    dtypes: frozenset[str] = frozenset()
    asked: Callable[[Kernel], tuple[Kernel, tuple[Note, ...]]] | None = None

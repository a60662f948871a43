"""Who looks at what the steps of the pipeline give: each line of it is `x = observe("streaming", streaming(x))`.

An observer gives back what it is shown. The one that the environment asks for holds each result against its Form (ATTNGEN_VERIFY) and
prints those of some steps (ATTNGEN_DUMP); `explain --after` keeps the result of one.
"""

from __future__ import annotations

import sys
from typing import Protocol, TypeVar

from attngen.errors import ArgumentError, InvalidKnob
from attngen.knobs import Knobs
from attngen.stages.show import show
from attngen.stages.stage_forms import STEPS, verify_step

_T = TypeVar("_T")


class Observe(Protocol):
    """What is told the name of each step and its result."""

    def __call__(self, name: str, value: _T, /) -> _T:
        """The result itself."""
        ...


def ignore(name: str, value: _T) -> _T:
    """The observer that looks at nothing."""
    del name
    return value


class Seen:
    """The observer that keeps what it is shown: the last result of each step, and all of them in order."""

    def __init__(self) -> None:
        self.results: list[tuple[str, object]] = []

    def __call__(self, name: str, value: _T, /) -> _T:
        self.results.append((name, value))
        return value

    def tell(self, observe: Observe) -> None:
        """Show all of it to another observer."""
        for name, value in self.results:
            observe(name, value)

    def text(self, name: str) -> str:
        """The last result of a step, as text."""
        return show(next(value for step, value in reversed(self.results) if step == name))


def watching(knobs: Knobs) -> Observe:
    """The observer that the knobs ask for: `verify` holds the result of each step against its Form, `dump` prints those of some to stderr.

    Raises:
        InvalidKnob: `dump` names something that is no step; and from the observer, InternalError: a result has another Form.
    """
    unknown = next((name for name in knobs.dump if name not in STEPS), None)
    if unknown is not None:
        raise InvalidKnob(f"ATTNGEN_DUMP names {unknown!r}, which is no step", remedy=f"The steps are {', '.join(STEPS)}.")

    def observe(name: str, value: _T, /) -> _T:
        if name in knobs.dump:
            print(f"# attngen: after {name}\n{show(value)}", file=sys.stderr, flush=True)
        if knobs.verify:
            verify_step(name, value)
        return value

    return observe if knobs.dump or knobs.verify else ignore


def check_step(name: str) -> None:
    """Refuse what no step is called.

    Raises:
        ArgumentError: listing the steps.
    """
    if name not in STEPS:
        raise ArgumentError(f"the pipeline has no step {name!r}", remedy=f"Its steps are {', '.join(STEPS)}.")

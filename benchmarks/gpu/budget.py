"""Time limits: a budget for the run, a share of the remaining time for each section, an alarm and a watchdog for hanging steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

RESERVE_S = 15.0
"""Left of a budget for tables, pictures and the end of what is stopped."""
GRACE_S = 10.0
"""How long after its alarm a step may still take to stop, as in a call that compiles, before it counts as hung."""
WEIGHTS: Mapping[str, float] = {"tests": 30, "forward": 26, "backward": 24, "mask": 3, "decode": 7, "first_call": 7, "memory": 3}
"""The sections in their order, with their shares."""


class OutOfTime(BaseException):
    """A step was still running when the budget ended. No library that catches every Exception may keep it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Until when: `ends` on the clock `now`, in seconds."""

    ends: float
    now: Callable[[], float] = time.monotonic

    @staticmethod
    def of(seconds: float, now: Callable[[], float] = time.monotonic) -> Budget:
        """A budget that begins now."""
        return Budget(now() + seconds, now)

    @property
    def left(self) -> float:
        """Seconds, negative when it is over."""
        return self.ends - self.now()

    def share(self, part: float) -> Budget:
        """A part of what is left, of 0 to 1."""
        return Budget(self.now() + part * self.left, self.now)


def part_of(section: str, sections: Sequence[str], weights: Mapping[str, float]) -> float:
    """The share of a section in the time left when it begins, so that unused time is redistributed."""
    coming = sections[sections.index(section) :]
    return weights[section] / sum(weights[name] for name in coming)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Stop what runs in the main thread after so long, as soon as it is back from the call that it is in.

    Raises:
        OutOfTime: it did not end before.
    """

    def ring(*_: object) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def watchdog(seconds: float, hung: Callable[[], object]) -> Iterator[None]:
    """Call `hung` in another thread where the main one is still here after so long: in a call that never returns, no alarm is heard."""
    timer = threading.Timer(seconds, hung)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

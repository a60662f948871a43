"""One run of sections: results after each, and the remaining ones after the loss of the device."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu import machine, report
from benchmarks.gpu.budget import GRACE_S, RESERVE_S, WEIGHTS, Budget, OutOfTime, part_of, watchdog
from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import DeviceLost, Run
from benchmarks.gpu.sections import SECTIONS, Section
from benchmarks.gpu.workloads import SPECIALISED, SPECIALISED_TESTS

MOST_LOSSES = 6
_DEVICE = "the device"
_REFERENCES_S = 60.0


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A report so far, the sections that are left, the one that was interrupted first, and the seconds for them."""

    report: Report
    sections: tuple[str, ...]
    budget_s: float


class State:
    """What a run has found and has to do, for the thread that measures and for the one that watches it.

    Attributes:
        report: so far; saved with each row.
        left: sections that have not ended, the one that runs first.
        whole: until when.
    """

    def __init__(self, report_: Report, left: Sequence[str], whole: Budget, out: tuple[Path, ...]) -> None:
        self.report, self.left, self.whole, self._out = report_, tuple(left), whole, out
        self._began, self._used_s = whole.now(), report_.used_s

    def add(self, *rows: Row) -> None:
        """Put rows into the report."""
        rows = (*self.report.rows, *rows)
        used_s = self._used_s + self.whole.now() - self._began
        self.report = replace(self.report, used_s=used_s, rows=rows, notes=report.skipped(rows))
        report.save(self.report, self._out)

    def lose(self, why: str) -> bool:
        """Put the loss of the device into the report; whether the section may go on in another process after that."""
        again = sum(row.workload == _DEVICE for row in self.report.rows) < MOST_LOSSES
        self.add(Row(self.left[0], _DEVICE, "-", "failed", note=f"{why}; {'a new process goes on' if again else 'given up'}"))
        return again

    def interrupted(self, left: tuple[str, ...]) -> Interrupted:
        """What another process needs to go on with these sections."""
        return Interrupted(self.report, left, max(self.whole.left, 0.0) + RESERVE_S + 0.1)


@dataclass(frozen=True)
class Session:
    """What runs.

    Attributes:
        machine: the device.
        out: folders for results.
        progress: called with one line for each row.
        guard: stops what runs for longer than so many seconds.
        known: sections by name.
        now: a clock in seconds.
        go_on: takes over from another thread, and does not return, where a step hangs in a call that nothing stops.
        grace_s: how long after the guard a step counts as hung.
    """

    machine: machine.Machine
    out: tuple[Path, ...]
    progress: Callable[[str], None]
    guard: Callable[[float], AbstractContextManager[None]]
    known: Mapping[str, Section] | None = None
    now: Callable[[], float] = time.monotonic
    go_on: Callable[[Interrupted], object] | None = None
    grace_s: float = GRACE_S

    def measured(self, sections: Sequence[str], budget_s: float, before: Report | None = None) -> Report | Interrupted:
        """Run sections one after the other, and write results after each.

        Args:
            sections: their names, in order.
            budget_s: for all of them.
            before: what a process before this one found; its rows are not measured again.
        """
        whole = Budget.of(budget_s - RESERVE_S, self.now)
        state = State(before or self._empty(budget_s), sections, whole, self.out)
        run: Run | None = None
        for number, name in enumerate(sections):
            state.left = tuple(sections[number:])
            again = False
            try:
                run = run or self._run(state)
                budget = whole.share(part_of(name, sections, WEIGHTS))
                run = replace(run, budget=budget, barred=barred(name, state.report.rows))
                for row in (self.known or SECTIONS)[name].rows(run):
                    state.add(row)
            except DeviceLost as error:
                again = state.lose(str(error))
            except (OutOfTime, Exception) as error:
                state.add(Row(name, "the section itself", "-", "failed", note=f"{type(error).__name__}: {error}"[:300]))
            report.write(state.report, self.out)
            if again:
                return state.interrupted(state.left)
        return state.report

    @contextmanager
    def _watched(self, state: State, seconds: float, row: Row) -> Iterator[None]:
        """Stop a step after so long; where it does not stop, a new process goes on after it."""

        def hung() -> None:
            state.add(replace(row, status="hung", note=f"{row.note or 'no answer'}, and did not stop"))
            again = state.lose(f"{row.contender} on {row.workload} did not return")
            if self.go_on is not None:
                self.go_on(state.interrupted(state.left if again else state.left[1:]))

        with watchdog(max(seconds, 0.0) + self.grace_s, hung), self.guard(seconds):
            yield

    def _empty(self, budget_s: float) -> Report:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        return Report(self.machine.name, date, machine.versions(), budget_s, 0.0, None, None, (), ())

    def _run(self, state: State) -> Run:
        """The references of shares are measured once, even if another process continues."""

        def guard(seconds: float, row: Row) -> AbstractContextManager[None]:
            return self._watched(state, seconds, row)

        done = state.report
        with guard(_REFERENCES_S, Row(state.left[0], "the product and the copy", "-")):
            product = done.product_tflops or machine.product_tflops(self.machine)
            copied = done.copy_gb_per_s or machine.copied_gb_per_s(self.machine)
        state.report = replace(done, product_tflops=product, copy_gb_per_s=copied)
        known = frozenset((row.section, row.workload, row.contender) for row in done.rows if row.status != "skipped")
        return Run(self.machine, state.whole, product, copied, self.progress, guard=guard, known=known, folders=self.out)


def barred(section: str, rows: Sequence[Row]) -> dict[str, str]:
    """Contenders that a section does not run, and why: those that hung in it, and the warp-specialised form if its tests did not pass."""
    found = {row.contender: f"it hung on {row.workload}" for row in rows if row.section == section and row.status == "hung"}
    for row in rows:
        if row.section == "tests" and row.workload == SPECIALISED_TESTS and row.status != "ok":
            found[SPECIALISED] = f"its tests did not pass, {row.note}"
    return found

"""One run of sections: results after each, and what is left to do where the device was lost on the way."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu import machine, report
from benchmarks.gpu.budget import RESERVE_S, WEIGHTS, Budget, OutOfTime, part_of
from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import DeviceLost, Guard, Run
from benchmarks.gpu.sections import SECTIONS, Section

MOST_LOSSES = 6
_DEVICE = "the device"


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A report so far, the sections that are left, the one that was interrupted first, and the seconds for them."""

    report: Report
    sections: tuple[str, ...]
    budget_s: float


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
    """

    machine: machine.Machine
    out: tuple[Path, ...]
    progress: Callable[[str], None]
    guard: Guard
    known: Mapping[str, Section] | None = None
    now: Callable[[], float] = time.monotonic

    def measured(self, sections: Sequence[str], budget_s: float, before: Report | None = None) -> Report | Interrupted:
        """Run sections one after the other, and write results after each.

        Args:
            sections: their names, in order.
            budget_s: for all of them.
            before: what a process before this one found; its rows are not measured again.
        """
        whole, began = Budget.of(budget_s - RESERVE_S, self.now), self.now()
        done = before or self._empty(budget_s)
        used_s, losses = done.used_s, sum(row.workload == _DEVICE for row in done.rows)
        run: Run | None = None
        for number, name in enumerate(sections):
            rows: list[Row] = []
            lost = False
            try:
                run = run or self._run(whole, done)
                run = replace(run, budget=whole.share(part_of(name, sections, WEIGHTS)))
                done = replace(done, product_tflops=run.product_tflops, copy_gb_per_s=run.copy_gb_per_s)
                for row in (self.known or SECTIONS)[name].rows(run):
                    rows.append(row)  # noqa: PERF402  what came before an error stays
            except DeviceLost as error:
                lost = losses < MOST_LOSSES
                rows.append(Row(name, _DEVICE, "-", "failed", note=f"{error}; {'a new process goes on' if lost else 'given up'}"))
            except (OutOfTime, Exception) as error:
                rows.append(Row(name, "the section itself", "-", "failed", note=f"{type(error).__name__}: {error}"[:300]))
            done = replace(done, used_s=used_s + self.now() - began, rows=(*done.rows, *rows))
            done = replace(done, notes=report.skipped(done.rows))
            report.write(done, self.out)
            if lost:
                return Interrupted(done, tuple(sections[number:]), max(whole.left, 0.0) + RESERVE_S + 0.1)
        return done

    def _empty(self, budget_s: float) -> Report:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        return Report(self.machine.name, date, machine.versions(), budget_s, 0.0, None, None, (), ())

    def _run(self, budget: Budget, done: Report) -> Run:
        """What shares are of is measured once, also when another process goes on."""
        product = done.product_tflops or machine.product_tflops(self.machine)
        copied = done.copy_gb_per_s or machine.copied_gb_per_s(self.machine)
        known = frozenset((row.section, row.workload, row.contender) for row in done.rows if row.status != "skipped")
        return Run(self.machine, budget, product, copied, self.progress, guard=self.guard, known=known, folders=self.out)

"""Runs the sections in sequence within a budget: a failure becomes a row, steps that do not fit are skipped, and the rest continues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.gpu.budget import Budget, OutOfTime
from benchmarks.gpu.contenders import CONTENDERS, Built, Contender, NotImportable
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problems import Problem, make
from benchmarks.gpu.rows import Row
from benchmarks.gpu.workloads import Step, Workload

Guard = Callable[[float, Row], AbstractContextManager[None]]
"""Stops what runs for longer than so many seconds; where it does not stop, the row is what is said of it."""
Measure = Callable[["Run", Problem, Built, "Named"], Row]
_ANSWER_S = 10.0


def _quiet(_: str) -> None:
    pass


def unguarded(*_: object) -> AbstractContextManager[None]:
    """No alarm."""
    return nullcontext()


class DeviceLost(Exception):
    """The device answers nothing any more in this process, as after a read outside of its memory; `after` says what was run last."""

    def __init__(self, after: str) -> None:
        super().__init__(f"the device was lost after {after}")
        self.after = after


@dataclass(frozen=True, slots=True)
class Named:
    """Which row is being measured."""

    section: str
    workload: Workload
    contender: str

    def row(self, **values: object) -> Row:
        """A row of this name."""
        return Row(self.section, str(self.workload), self.contender, **values)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Run:
    """What sections share.

    Attributes:
        machine: the device.
        budget: of the section that runs.
        product_tflops, copy_gb_per_s: what shares are of.
        progress: called with one line for each row.
        contenders: by name.
        guard: stops what runs for longer than so many seconds.
        known: section, workload and contender of rows that are there already, from a process before this one.
        barred: contenders that are not run in this section, and why.
        folders: where logs go.
    """

    machine: Machine
    budget: Budget
    product_tflops: float
    copy_gb_per_s: float
    progress: Callable[[str], None] = _quiet
    contenders: dict[str, Contender] = field(default_factory=lambda: dict(CONTENDERS))
    guard: Guard = unguarded
    known: frozenset[tuple[str, str, str]] = frozenset()
    barred: Mapping[str, str] = field(default_factory=dict[str, str])
    folders: tuple[Path, ...] = ()

    def each(self, section: str, steps: Iterable[Step], measure: Measure, *, grad: bool) -> Iterator[Row]:
        """Measure every step that fits, with tensors of its own that its contenders share.

        Raises:
            DeviceLost: after a row that failed.
        """
        gone: set[str] = set()
        for number, step in enumerate(steps):
            problem: Problem | None = None
            for name in step.contenders:
                if name in gone or (section, str(step.workload), name) in self.known:
                    continue
                contender, named = self.contenders[name], Named(section, step.workload, name)
                if name in self.barred:
                    gone.add(name)
                    yield named.row(status="absent", note=f"not run: {self.barred[name]}")
                    continue
                if self.budget.left < contender.cost_s:
                    yield named.row(status="skipped", note=f"{max(self.budget.left, 0):.0f} s left, {contender.cost_s:.0f} s allowed for")
                    continue
                try:
                    with self.guard(min(self.budget.left, contender.limit_s), named.row()):
                        if problem is None:
                            problem = make(step.workload, self.machine.device, grad=grad, seed=number)
                        began = time.perf_counter()
                        built = contender.build(problem)
                        built = replace(built, build_s=time.perf_counter() - began)
                        row = measure(self, problem, built, named)
                except NotImportable as error:
                    gone.add(name)
                    row = named.row(status="absent", note=str(error))
                except (OutOfTime, Exception) as error:
                    row = named.row(status="failed", note=f"{type(error).__name__}: {_first_line(error)}")
                self.progress(said(row))
                lost = row.status == "failed" and not self._answers(row)
                yield row
                if lost:
                    raise DeviceLost(f"{name} on {step.workload}")

    def _answers(self, after: Row) -> bool:
        """Whether the device still computes after a row that failed; a kernel that hangs may show only here."""
        try:
            with self.guard(_ANSWER_S, after):
                return self.machine.alive()
        except OutOfTime:
            return False


def said(row: Row) -> str:
    """A row on one line, for progress."""
    figures = [
        text
        for value, text in (
            (row.ms, f"{row.ms or 0:.3f} ms"),
            (row.tflops, f"{row.tflops or 0:.0f} TFLOP/s"),
            (row.gb_per_s, f"{row.gb_per_s or 0:.0f} GB/s"),
            (row.peak_mb, f"{row.peak_mb or 0:.0f} MB"),
            (row.error, f"error {row.error or 0:.1e}"),
        )
        if value is not None
    ]
    state = "" if row.status == "ok" else f"{row.status.upper()} {row.where} {row.note}".rstrip()
    return f"{row.section}  {row.workload}  {row.contender}: {', '.join([*figures, *([state] if state else [])])}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""

"""Everything that takes a GPU to measure, in one command.

    python -m benchmarks.gpu                          all sections within nine minutes
    python -m benchmarks.gpu --sections forward mask  some of them
    python -m benchmarks.gpu --dry-run                the plan, on any machine

Prints a table last, and writes JSON and pictures into benchmarks/results, and into $OUT where that is set. Sections share the budget; what
does not fit is skipped and said. Exit code 1 if anybody computed something wrong or attngen failed, 2 if the machine lacks something.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu import machine, report, workloads
from benchmarks.gpu.budget import Budget, OutOfTime, alarm, part_of
from benchmarks.gpu.rows import Row

if TYPE_CHECKING:
    from benchmarks.gpu.run import Run
    from benchmarks.gpu.sections import Section

RESULTS = Path(__file__).parents[1] / "results"
BUDGET_S, LONGEST_S = 520.0, 540.0
# Left for tables, pictures and the end of what is stopped.
_RESERVE_S = 15.0
WEIGHTS: Mapping[str, float] = {"tests": 30, "forward": 26, "backward": 24, "mask": 3, "decode": 7, "first_call": 7, "memory": 3}
TITLES: Mapping[str, str] = {
    "tests": "the tests marked gpu, in several processes",
    "forward": "the grid, forward, inference",
    "backward": "the grid, gradients",
    "mask": "what a mask costs before attention starts",
    "decode": "one query a sequence, against a copy",
    "first_call": "the first forward and backward of a process, with caches empty and filled",
    "memory": "the peak of a forward and a backward",
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS), metavar="NAME", help=", ".join(WEIGHTS))
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help=f"for all of it (default: {BUDGET_S:.0f})")
    parser.add_argument("--list", action="store_true", help="name the sections")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where to write (default: benchmarks/results)")
    found = parser.parse_args(argv)
    if found.budget <= _RESERVE_S:
        parser.error(f"--budget is more than {_RESERVE_S:.0f} seconds")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run; gives the exit code."""
    options = arguments(argv)
    # Each section once, in the order of the table.
    sections = [name for name in WEIGHTS if name in options.sections]
    if options.list:
        print("\n".join(f"{name:12}{TITLES[name]}" for name in sections))
        return 0
    if options.dry_run:
        print("\n".join(plan(sections, options.budget)))
        return 0
    lacking = machine.missing(machine.NEEDED)
    if lacking:
        print(f"missing here: {', '.join(lacking)}. Install them, or attngen itself, which brings them.", file=sys.stderr)
        return 2
    machine.prepare_environment(os.environ)
    import torch

    if not torch.cuda.is_available():
        print("this benchmark needs a GPU, and PyTorch sees none here; --dry-run prints the plan", file=sys.stderr)
        return 2
    done = measured(sections, options.budget, machine.gpu(), out=folders(options.results), guard=alarm)
    print("\n".join(report.table(done)))
    return 1 if any(row.counts for row in done.rows) else 0


def folders(results: Path) -> tuple[Path, ...]:
    """Where results go."""
    out = os.environ.get("OUT")
    return (results, Path(out)) if out else (results,)


def plan(sections: Sequence[str], budget_s: float) -> list[str]:
    """The order of things with the share of the budget of each section, as if each used all of it."""
    from benchmarks.gpu.workloads import FIRST_CALLS, MASK_LENGTHS, MASKS

    steps: dict[str, Callable[[], Iterator[workloads.Step]]] = {
        "forward": workloads.grid,
        "backward": workloads.grid,
        "decode": workloads.decode,
        "memory": workloads.memory,
    }
    others = {
        "tests": ["tests/gpu"],
        "mask": [f"{name} n{length}: attngen, create_block_mask" for length in MASK_LENGTHS for name in MASKS],
        "first_call": [f"{item}: attngen, flex" for item in FIRST_CALLS],
    }
    total = sum(WEIGHTS[name] for name in sections)
    lines: list[str] = []
    for name in sections:
        lines.append(f"{name}: {TITLES[name]}, {(budget_s - _RESERVE_S) * WEIGHTS[name] / total:.0f} s")
        lines += [f"  {line}" for line in others.get(name, [])]
        lines += [f"  {step.workload}: {', '.join(step.contenders)}" for step in (steps[name]() if name in steps else ())]
    return lines


def measured(
    sections: Sequence[str],
    budget_s: float,
    device: machine.Machine,
    *,
    out: Sequence[Path],
    guard: Callable[[float], AbstractContextManager[None]] | None = None,
    known: Mapping[str, Section] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> report.Report:
    """Run sections one after the other; results are written after each, so that nothing is lost.

    Args:
        sections: their names, in order.
        budget_s: for all of them.
        device: what is measured.
        out: folders for results.
        guard: stops what runs for longer than so many seconds.
        known: sections by name, those of `sections` by default.
        now: a clock in seconds.
    """
    from benchmarks.gpu.run import Run, unguarded
    from benchmarks.gpu.sections import SECTIONS

    whole = Budget.of(budget_s - _RESERVE_S, now)
    began, date = now(), datetime.datetime.now(datetime.UTC).date().isoformat()
    empty = report.Report(device.name, date, machine.versions(), budget_s, 0.0, None, None, (), ())
    rows: list[Row] = []
    done = empty
    run: Run | None = None
    for name in sections:
        share = whole.share(part_of(name, sections, WEIGHTS))
        try:
            if run is None:
                run = Run(device, share, machine.product_tflops(device), machine.copied_gb_per_s(device), said, guard=guard or unguarded)
            run = replace(run, budget=share)
            for row in (known or SECTIONS)[name].rows(run):
                rows.append(row)  # noqa: PERF402  what came before an error stays
        except (OutOfTime, Exception) as error:
            rows.append(Row(name, "the section itself", "-", "failed", note=f"{type(error).__name__}: {error}"[:300]))
        product, copy = (None, None) if run is None else (run.product_tflops, run.copy_gb_per_s)
        done = replace(
            empty, used_s=now() - began, product_tflops=product, copy_gb_per_s=copy, notes=report.skipped(rows), rows=tuple(rows)
        )
        report.write(done, out)
    return done


def said(line: str) -> None:
    """Progress."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Everything that takes a GPU to measure, in one command.

    python -m benchmarks.gpu                          all sections within nine minutes
    python -m benchmarks.gpu --sections forward mask  some of them
    python -m benchmarks.gpu --dry-run                the plan, on any machine

Prints a table last, and writes JSON and pictures into benchmarks/results, and into $OUT if set. Sections share the budget; steps without
time left are skipped and reported; a new process continues after a step that hangs. Exit code 1 if any contender gave wrong results or
attngen failed, 2 if the machine lacks something.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks.gpu import machine, report, workloads
from benchmarks.gpu.budget import RESERVE_S, WEIGHTS, alarm

if TYPE_CHECKING:
    from benchmarks.gpu.session import Interrupted

RESULTS = Path(__file__).parents[1] / "results"
BUDGET_S = 520.0
TITLES: Mapping[str, str] = {
    "tests": "the tests marked gpu, in several processes, those of the warp-specialised form last",
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
    parser.add_argument("--sections", nargs="*", choices=list(WEIGHTS), default=list(WEIGHTS), metavar="NAME", help=", ".join(WEIGHTS))
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help=f"for all of it (default: {BUDGET_S:.0f})")
    parser.add_argument("--list", action="store_true", help="name the sections")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where to write (default: benchmarks/results)")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args(argv)
    if not found.sections and found.resume is None:
        parser.error("--sections takes one at least")
    if found.budget <= RESERVE_S:
        parser.error(f"--budget is more than {RESERVE_S:.0f} seconds")
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

    from benchmarks.gpu.session import Interrupted, Session

    if not torch.cuda.is_available():
        print("this benchmark needs a GPU, and PyTorch sees none here; --dry-run prints the plan", file=sys.stderr)
        return 2
    session = Session(machine.gpu(), folders(options.results), said, alarm, go_on=lambda left: go_on(left, options.results))
    before = None if options.resume is None else report.from_json(options.resume.read_text(encoding="utf-8"))
    done = session.measured(sections, options.budget, before)
    if isinstance(done, Interrupted):
        go_on(done, options.results)
    print("\n".join(report.table(done)))
    return 1 if any(row.counts for row in done.rows) else 0


def go_on(left: Interrupted, results: Path) -> NoReturn:
    """Put a new process in the place of this one, which has lost its device; from any thread of it."""
    path = Path(tempfile.mkdtemp(prefix="attngen-gpu-")) / "before.json"
    path.write_text(report.as_json(left.report), encoding="utf-8")
    print(left.report.rows[-1].note, flush=True)
    options = ["--resume", str(path), "--budget", f"{left.budget_s:.1f}", "--results", str(results), "--sections", *left.sections]
    # A device file that stays open would keep a kernel running that hangs.
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            os.set_inheritable(int(entry.name), int(entry.name) <= 2)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *options])


def folders(results: Path) -> tuple[Path, ...]:
    """Where results go."""
    out = os.environ.get("OUT")
    return (results, Path(out)) if out else (results,)


def plan(sections: Sequence[str], budget_s: float) -> list[str]:
    """The order of things with the share of the budget of each section, as if each used all of it."""
    from benchmarks.gpu.workloads import FIRST_CALLS, MASK_LENGTHS, MASKS, TESTS

    steps: dict[str, Callable[[], Iterator[workloads.Step]]] = {
        "forward": workloads.forward,
        "backward": workloads.backward,
        "decode": workloads.decode,
        "memory": workloads.memory,
    }
    others = {
        "tests": [f"tests/gpu -k '{selected}'" for selected, _ in TESTS],
        "mask": [f"{name} n{length}: attngen, create_block_mask" for length in MASK_LENGTHS for name in MASKS],
        "first_call": [f"{item}: attngen, flex" for item in FIRST_CALLS],
    }
    total = sum(WEIGHTS[name] for name in sections)
    lines: list[str] = []
    for name in sections:
        lines.append(f"{name}: {TITLES[name]}, {(budget_s - RESERVE_S) * WEIGHTS[name] / total:.0f} s")
        lines += [f"  {line}" for line in others.get(name, [])]
        lines += [f"  {step.workload}: {', '.join(step.contenders)}" for step in (steps[name]() if name in steps else ())]
    return lines


def said(line: str) -> None:
    """Progress."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

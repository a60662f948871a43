"""Sections in separate processes: the tests that need a GPU, and first calls with empty caches.

Only processes started here are ended, with what they started.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.machine import FOR_TESTS, missing
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import Run
from benchmarks.gpu.workloads import FIRST_CALLS, SPECIALISED_TESTS, TESTS, USUAL_TESTS

CHECKOUT = Path(__file__).resolve().parents[2]
# Less than this and none of the later tests would end.
_LEAST_S = 30.0
_WORKERS = 8
_OUTCOME = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_CACHES = ("ATTNGEN_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a process printed, and its exit status; None if it was ended."""

    output: str
    status: int | None


def finished(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Finished:
    """Run a command at the top of the checkout for so long at most."""
    process = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return Finished(process.communicate(timeout=max(seconds, 1.0))[0], process.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Finished(process.communicate()[0], None)


# ---- tests


def tests_command(selected: str) -> list[str]:
    """pytest on those of the tests for GPUs, in several processes where that is possible; compiling is what takes the time.

    Warnings of another version of a dependency are no failures here.
    """
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-k", selected]
    command += ["-v", "--tb=short", "-W", "default", "-p", "no:cacheprovider"]
    if find_spec("xdist") is None:
        return command
    return [*command, "-n", str(max(1, min(_WORKERS, (os.cpu_count() or 2) - 1))), "--dist", "worksteal"]


def gpu_tests(run: Run) -> Iterator[Row]:
    """The tests marked gpu, for as long as there is time; what was found until then counts."""
    lacking = missing(FOR_TESTS)
    if lacking:
        yield Row("tests", "pytest -m gpu", "attngen", "failed", note=f"missing here: {', '.join(lacking)}")
        return
    log = ""
    for selected, part in TESTS:
        if selected != USUAL_TESTS and run.budget.left < _LEAST_S:
            yield Row("tests", selected, "attngen", "skipped", note="no time left")
            continue
        done = finished(tests_command(selected), run.budget.share(part).left)
        log += f"pytest -m gpu -k '{selected}'\n{done.output}"
        for folder in run.folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tests.log").write_text(log, encoding="utf-8")
        yield from test_rows(selected, done)


def test_rows(selected: str, done: Finished) -> Iterator[Row]:
    """One row for a process of tests, then one for each test that failed. Where it says whether a form is timed, it has to have ended."""
    counts = outcomes(done.output)
    note = ", ".join(f"{count} {name.lower()}" for name, count in counts.items()) or "nothing ran"
    note += ", stopped when its time was over" if done.status is None else ""
    bad = counts.get("FAILED", 0) + counts.get("ERROR", 0)
    ended = done.status == 0 or (done.status is None and selected != SPECIALISED_TESTS)
    # Devices for which there is no such form skip all of its tests.
    right = counts.get("PASSED", 0) > 0 or (counts.get("SKIPPED", 0) > 0 and selected != USUAL_TESTS)
    yield Row("tests", selected, "attngen", "ok" if right and ended and not bad else "failed", note=note)
    for line in [line for line in done.output.splitlines() if line.startswith(("FAILED ", "ERROR "))][:20]:
        yield Row("tests", line.split(" - ")[0].partition(" ")[2], "attngen", "failed", note=line.partition(" - ")[2][:200])
    if not counts:
        yield Row("tests", "what pytest printed last", "attngen", "failed", note=" | ".join(done.output.splitlines()[-5:])[:600])


def outcomes(output: str) -> dict[str, int]:
    """How often each outcome is in the lines of `pytest -v`, of the tests themselves and not of the summary."""
    counts: dict[str, int] = {}
    for line in output.splitlines():
        if "::" in line and not line.startswith(("FAILED", "ERROR", "SKIPPED")):
            found = _OUTCOME.search(line)
            if found is not None:
                counts[found[1]] = counts.get(found[1], 0) + 1
    return counts


# ---- first calls


def first_calls(run: Run) -> Iterator[Row]:
    """A forward and a backward in a new process: with empty caches, then with what the first process left in them."""
    for workload in FIRST_CALLS:
        for name in ("attngen", "flex"):
            with tempfile.TemporaryDirectory(prefix="attngen-first-") as folder:
                environment = {variable: str(Path(folder) / variable.lower()) for variable in _CACHES}
                for caches in ("empty", "filled"):
                    row = Row("first_call", f"{workload}, caches {caches}", name)
                    if run.budget.left < 10.0:
                        yield Row(row.section, row.workload, name, "skipped", note="no time left")
                        continue
                    done = finished(first_call_command(name), run.budget.left, environment)
                    yield first_call_row(row, done)
                    run.progress(f"first_call  {row.workload}  {name}: {done.output.strip().splitlines()[-1:]}")


def first_call_command(contender: str) -> list[str]:
    """A process that prints one line of JSON last."""
    return [sys.executable, "-m", "benchmarks.gpu.first_call", contender]


def first_call_row(row: Row, done: Finished) -> Row:
    """The row for what such a process printed."""
    if done.status is None:
        return replace(row, status="failed", note="stopped when its time was over")
    lines = done.output.strip().splitlines()
    if done.status != 0 or not lines:
        return replace(row, status="failed", note=" | ".join(lines[-3:])[:300])
    found = json.loads(lines[-1])
    note = f"imports {found['import_s']:.1f} s, forward {found['forward_s']:.1f} s, backward {found['backward_s']:.1f} s"
    return replace(row, first_s=found["forward_s"] + found["backward_s"], note=note)

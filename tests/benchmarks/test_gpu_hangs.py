"""Kernels that hang, on a machine without a GPU: calls that no signal ends stand for them, and a new process goes on after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import report, subprocesses, workloads
from benchmarks.gpu.budget import alarm
from benchmarks.gpu.contenders import Contender
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import Run
from benchmarks.gpu.sections import Section, measure_forward
from benchmarks.gpu.session import MOST_LOSSES, Interrupted, Session, barred
from benchmarks.gpu.workloads import Step
from tests.benchmarks.gpu_fakes import MACHINE, SMALL, Stuck, exact, run_of
from tests.benchmarks.test_gpu_plan import python

# ---- tests of a form that may hang


def test_each_gpu_test_runs_in_one_process_and_those_that_may_hang_last():
    selections = [*(selected for selected, _ in workloads.TESTS), "test"]
    # One process, which imports torch once, collects what each of the commands would run.
    program = f"import pytest\nfor s in {selections}:\n    print('next'); pytest.main(['tests/gpu', '-k', s, '--collect-only', '-q'])"
    found = python("-c", program).stdout.split("next\n")[1:]
    first, second, third, together = ([line for line in part.splitlines() if "::" in line] for part in found)
    assert not any("specialised" in name for name in first)
    assert len(second) == 2 * 12
    assert all("specialised" in name and "bfloat16" in name for name in second)
    assert sorted([*first, *second, *third]) == sorted(together)
    assert all(selected in subprocesses.tests_command(selected) for selected in selections)


def test_a_form_is_timed_where_its_tests_ended_and_passed():
    passed = "tests/gpu/test_gpu.py::test_specialised_a PASSED [ 10%]\n"
    form, usual = workloads.SPECIALISED_TESTS, workloads.USUAL_TESTS
    cases = [
        (form, passed, 0, "ok"),
        (form, passed, None, "failed"),
        (form, passed.replace("PASSED", "FAILED"), 1, "failed"),
        (form, passed, -11, "failed"),
        (form, passed.replace("PASSED", "SKIPPED"), 0, "ok"),
        (usual, passed, None, "ok"),
        (usual, passed.replace("PASSED", "SKIPPED"), 0, "failed"),
    ]
    for selected, output, status, wanted in cases:
        row, *_ = subprocesses.test_rows(selected, subprocesses.Finished(output, status))
        assert row.status == wanted, (selected, output, status)
        assert set(barred("forward", [row])) == ({"attngen_specialised"} if (selected, wanted) == (form, "failed") else set())
    assert set(barred("forward", [Row("tests", form, "attngen", "skipped")])) == {"attngen_specialised"}
    assert not barred("forward", [])
    steps = [Step(replace(SMALL, variant=variant), ("attngen", "attngen_specialised")) for variant in ("causal", "noop")]
    contenders = {name: Contender(name, exact, 1.0) for name in ("attngen", "attngen_specialised")}
    (row,) = subprocesses.test_rows(form, subprocesses.Finished(passed, None))
    run = replace(run_of(), contenders=contenders, barred=barred("forward", [row]))
    rows = list(run.each("forward", steps, measure_forward, grad=False))
    assert [(row.contender, row.status) for row in rows] == [("attngen", "ok"), ("attngen_specialised", "absent"), ("attngen", "ok")]
    reason = "attngen_specialised: not run: its tests did not pass, 1 passed, stopped when its time was over"
    assert report.skipped(rows) == (reason,)


# ---- calls that do not return


def test_a_call_that_never_returns_is_left_to_a_new_process(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.machine.product_tflops", lambda machine: 100.0)
    monkeypatch.setattr("benchmarks.gpu.machine.copied_gb_per_s", lambda machine: 50.0)
    stuck, left = Stuck(), list[Interrupted]()
    contenders = {"attngen": Contender("attngen", exact, 1.0), "hangs": Contender("hangs", lambda _: stuck(), 1.0, limit_s=0.1)}
    steps = [Step(replace(SMALL, variant=variant), ("attngen", "hangs")) for variant in ("causal", "noop")]

    def forward(run: Run) -> Iterator[Row]:
        yield from replace(run, contenders=contenders).each("forward", steps, measure_forward, grad=False)

    def decode(run: Run) -> Iterator[Row]:
        yield Row("decode", "noop", "attngen")

    def go_on(found: Interrupted) -> None:
        saved = report.from_json((tmp_path / f"{report.slug(found.report)}.json").read_text())
        assert saved == found.report
        left.append(found)
        stuck.release()

    known = {"forward": Section("forward", forward), "decode": Section("decode", decode)}
    session = Session(MACHINE, (tmp_path,), print, alarm, known, go_on=go_on, grace_s=0.3)
    session.measured(["forward", "decode"], 60.0)
    found = left[0]
    assert [(row.workload.split()[0], row.contender, row.status) for row in found.report.rows] == [
        ("causal", "attngen", "ok"),
        ("causal", "hangs", "hung"),
        ("the", "-", "failed"),
    ]
    assert found.report.rows[-1].note == "hangs on causal b2 h4/2 n48 d16 did not return; a new process goes on"
    assert found.sections == ("forward", "decode")
    done = session.measured(found.sections, found.budget_s, found.report)
    assert isinstance(done, report.Report)
    assert len(left) == 2, "a contender that hung is not begun again in its section"
    assert [(row.workload.split()[0], row.contender, row.status) for row in done.rows[3:]] == [
        ("noop", "attngen", "ok"),
        ("noop", "hangs", "absent"),
        ("noop", "attngen", "ok"),
    ]
    assert "hung: forward causal b2 h4/2 n48 d16 hangs: no answer, and did not stop" in report.table(done)


def test_who_hangs_too_often_ends_the_section(tmp_path):
    rows = tuple(Row("forward", "the device", "-", "failed") for _ in range(MOST_LOSSES))
    before = report.Report("g", "2000-01-01", {}, 60.0, 9.0, 1.0, 1.0, (), rows)
    stuck, left = Stuck(), list[Interrupted]()

    def mask(run: Run) -> Iterator[Row]:
        with run.guard(0.05, Row("mask", "w", "c")):
            stuck()
        yield Row("mask", "w", "c")

    def go_on(found: Interrupted) -> None:
        left.append(found)
        stuck.release()

    session = Session(MACHINE, (tmp_path,), print, alarm, {"mask": Section("mask", mask)}, go_on=go_on, grace_s=0.3)
    session.measured(["mask"], 60.0, before)
    assert left[0].sections == ()
    assert left[0].report.rows[-1].note == "c on w did not return; given up"
    options = command.arguments(["--resume", "before.json", "--sections"])
    assert options.sections == []
    assert session.measured([], left[0].budget_s, left[0].report) == left[0].report


def test_a_process_is_replaced_while_a_call_of_its_own_hangs(tmp_path):
    program = f"""
import os
from pathlib import Path
from benchmarks.gpu import __main__ as command, report
from benchmarks.gpu.budget import alarm, watchdog
from benchmarks.gpu.session import Interrupted
from tests.benchmarks.gpu_fakes import Stuck
replaced, device = os.execv, os.open(os.devnull, os.O_RDONLY)
os.set_inheritable(device, True)
after = f"import os, sys; print('after', sys.argv[-1], os.path.exists('/proc/self/fd/{{device}}'))"
os.execv = lambda program, arguments: replaced(program, [program, "-c", after, *arguments])
row = report.Row("forward", "the device", "-", "failed", note="lost")
left = Interrupted(report.Report("g", "2000-01-01", {{}}, 60.0, 9.0, 1.0, 1.0, (), (row,)), ("decode",), 51.0)
with watchdog(0.6, lambda: command.go_on(left, Path({str(tmp_path)!r}))), alarm(0.1):
    Stuck()()
"""
    done = python("-c", program, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "lost\nafter decode False\n"), done.stderr

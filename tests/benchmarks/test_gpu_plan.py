"""The benchmark for GPUs without one: plans, budgets, processes, tables, and what happens when something fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import report, subprocesses, workloads
from benchmarks.gpu.budget import WEIGHTS, Budget, OutOfTime, alarm, part_of
from benchmarks.gpu.contenders import CONTENDERS, Contender
from benchmarks.gpu.machine import missing, prepare_environment
from benchmarks.gpu.problems import VARIANTS
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import Run, unguarded
from benchmarks.gpu.sections import Section, measure_forward
from benchmarks.gpu.session import Interrupted, Session
from benchmarks.gpu.workloads import Step, Workload
from tests.benchmarks.gpu_fakes import MACHINE, SMALL, Clock, exact, refusing, run_of

CHECKOUT = Path(__file__).resolve().parents[2]


def python(*command_: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    return subprocess.run([sys.executable, *command_], capture_output=True, text=True, check=False, cwd=CHECKOUT, env=settings)


@pytest.mark.parametrize("option", ["--help", "--list", "--dry-run"])
def test_plans_come_at_once_and_need_no_torch(option):
    program = (
        f"import sys; sys.argv = ['gpu', {option!r}]\nimport runpy\n"
        "try:\n    runpy.run_module('benchmarks.gpu', run_name='__main__')\nexcept SystemExit as e:\n    assert not e.code\n"
        "assert not {'torch', 'triton', 'attngen.api'} & set(sys.modules)"
    )
    began = time.perf_counter()
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - began < 2.0
    assert all(name in done.stdout for name in WEIGHTS)


def test_the_plan_begins_with_what_is_worth_most(capsys):
    assert command.main(["--dry-run", "--sections", "forward", "--budget", "115"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "forward: the grid, forward, inference, 100 s"
    assert lines[1].startswith("  causal b4 h16/16 n8192 d128: attngen, attngen_specialised, sdpa_cudnn")
    steps = list(workloads.grid())
    names = [(str(step.workload), name) for step in steps for name in step.contenders]
    assert len(set(names)) == len(names)
    variants, dims, lengths, heads = ({getattr(step.workload, field) for step in steps} for field in ("variant", "dims", "kv_len", "heads"))
    assert variants == set(VARIANTS)
    assert {(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)} <= dims
    assert set(workloads.GRID_LENGTHS) <= lengths
    assert heads == set(workloads.GRID_HEADS)
    both = (*workloads.forward(), *workloads.backward())
    assert {name for step in both for name in step.contenders} == set(CONTENDERS)


def test_a_wrong_command_line_is_refused():
    for argv in (["--sections", "lunch"], ["--sections"], ["--budget", "3"]):
        with pytest.raises(SystemExit) as caught:
            command.main(argv)
        assert caught.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert command.main([]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_what_is_missing_is_named(monkeypatch, capsys):
    assert missing(("json", "no_such_package")) == ("no_such_package",)
    monkeypatch.setattr("benchmarks.gpu.machine.NEEDED", ("no_such_package",))
    assert command.main([]) == 2
    assert "no_such_package" in capsys.readouterr().err


def test_a_cache_folder_is_named_where_nobody_knows_one(monkeypatch):
    environment: dict[str, str] = {}
    prepare_environment(environment)
    assert environment == {}, "platformdirs is installed here"
    monkeypatch.setattr("benchmarks.gpu.machine.find_spec", lambda name: None)
    prepare_environment(environment)
    assert "ATTNGEN_CACHE_DIR" in environment
    prepare_environment(given := {"ATTNGEN_CACHE_DIR": "mine"})
    assert given == {"ATTNGEN_CACHE_DIR": "mine"}


# ---- budgets


def test_sections_share_what_is_left():
    clock, weights = Clock(), {"a": 3.0, "b": 1.0, "c": 1.0}
    whole = Budget.of(100.0, clock)
    assert whole.share(part_of("a", ["a", "b", "c"], weights)).left == pytest.approx(60.0)
    clock.at += 20.0
    assert whole.share(part_of("b", ["a", "b", "c"], weights)).left == pytest.approx(40.0)
    clock.at += 80.0
    assert whole.share(part_of("c", ["a", "b", "c"], weights)).left == 0.0


def test_an_alarm_ends_what_hangs():
    with pytest.raises(OutOfTime), alarm(0.05):
        while True:
            try:
                time.sleep(1.0)
            except Exception:  # libraries that keep every Exception do not keep this one
                pytest.fail("kept")
    with alarm(0.2):
        pass
    time.sleep(0.25)


# ---- processes


def test_outcomes_are_counted_also_when_it_was_stopped(tmp_path, monkeypatch):
    output = (
        "tests/gpu/test_gpu.py::test_a[1] PASSED [ 10%]\n[gw0] [ 20%] PASSED tests/gpu/test_gpu.py::test_a[2]\n"
        "[gw1] [ 30%] FAILED tests/gpu/test_gpu.py::test_b\nFAILED tests/gpu/test_gpu.py::test_b - assert 1 == 2\n"
    )
    assert subprocesses.outcomes(output) == {"PASSED": 2, "FAILED": 1}
    monkeypatch.setattr(subprocesses, "finished", lambda *_: subprocesses.Finished(output, None))
    rows = list(subprocesses.gpu_tests(replace(run_of(), folders=(tmp_path / "new",))))
    assert (tmp_path / "new" / "tests.log").read_text().count(output) == 3
    assert [row.workload for row in rows[::2]] == [selected for selected, _ in workloads.TESTS]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first.status, first.note) == ("failed", "2 passed, 1 failed, stopped when its time was over")
        assert (second.workload, second.note) == ("tests/gpu/test_gpu.py::test_b", "assert 1 == 2")


def test_tests_say_what_they_lack(monkeypatch):
    monkeypatch.setattr(subprocesses, "FOR_TESTS", ("no_such_package",))
    (row,) = subprocesses.gpu_tests(run_of())
    assert (row.status, row.note) == ("failed", "missing here: no_such_package")


def test_a_process_that_takes_too_long_is_ended_with_its_output():
    program = "import time; print('began', flush=True); time.sleep(60)"
    began = time.perf_counter()
    done = subprocesses.finished([sys.executable, "-c", program], 1.0)
    assert (done.output, done.status) == ("began\n", None)
    assert time.perf_counter() - began < 10


def test_a_first_call_is_read_from_the_last_line():
    row = Row("first_call", "w", "attngen")
    done = subprocesses.Finished('noise\n{"import_s": 1.0, "forward_s": 2.0, "backward_s": 3.5}\n', 0)
    assert subprocesses.first_call_row(row, done).first_s == 5.5
    for broken in (subprocesses.Finished("Traceback\nValueError: no", 1), subprocesses.Finished("", None), subprocesses.Finished("", 0)):
        assert subprocesses.first_call_row(row, broken).status == "failed"


def test_the_process_of_a_first_call_prints_what_is_read(monkeypatch, capsys):
    from benchmarks.gpu import first_call

    monkeypatch.setattr(workloads, "FIRST_CALLS", (Workload("causal", (16, 16), 20, 20, 1, (2, 1)),))
    monkeypatch.setattr(sys, "argv", ["first_call", "attngen", "--device", "cpu"])
    first_call.main()
    row = subprocesses.first_call_row(Row("first_call", "w", "attngen"), subprocesses.Finished(capsys.readouterr().out, 0))
    assert row.status == "ok"
    assert (row.first_s or 0) > 0


# ---- the whole


def test_a_run_reports_what_failed_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.machine.product_tflops", lambda machine: 100.0)
    monkeypatch.setattr("benchmarks.gpu.machine.copied_gb_per_s", lambda machine: 50.0)

    def broken(run: Run) -> Iterator[Row]:
        yield Row("forward", "causal", "attngen", ms=1.0, tflops=42.0, share=0.42)
        yield Row("forward", "causal", "flex", "wrong", error=0.5, where="o")
        raise ValueError("the section broke")

    def fine(run: Run) -> Iterator[Row]:
        yield Row("decode", "noop", "attngen", graph_ms=1.0, gb_per_s=40.0, share=0.8)

    known = {"forward": Section("forward", broken), "decode": Section("decode", fine)}
    done = Session(MACHINE, (tmp_path / "a", tmp_path / "b"), print, unguarded, known).measured(["forward", "decode"], 60.0)
    assert isinstance(done, report.Report)
    assert [row.status for row in done.rows] == ["ok", "wrong", "failed", "ok"]
    text = report.table(done)
    assert text[0] == "WRONG: forward causal flex: error 5.0e-01 in o"
    assert text[1] == "failed: forward the section itself -: ValueError: the section broke"
    assert any("42 0.42" in line and "wrong" in line for line in text)
    found = json.loads((tmp_path / "b" / f"{report.slug(done)}.json").read_text())
    assert report.from_json(report.as_json(done)) == done
    assert found["device"] == "a CPU"
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    assert found["rows"][0] == {
        "section": "forward", "workload": "causal", "contender": "attngen", "status": "ok", "ms": 1.0, "tflops": 42.0, "share": 0.42,
    }  # fmt: skip
    pictures = {path.name.rpartition("-")[2] for path in (tmp_path / "a").glob("*.png")}
    assert pictures == {"forward.png", "decode.png"}


def test_a_lost_device_is_left_to_a_new_process(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.machine.product_tflops", lambda machine: 100.0)
    monkeypatch.setattr("benchmarks.gpu.machine.copied_gb_per_s", lambda machine: 50.0)
    contenders = {"attngen": Contender("attngen", refusing, 1.0), "flex": Contender("flex", exact, 1.0)}
    steps = [Step(replace(SMALL, variant=variant), ("attngen", "flex")) for variant in ("causal", "noop")]

    def forward(run: Run) -> Iterator[Row]:
        yield from replace(run, contenders=contenders).each("forward", steps, measure_forward, grad=False)

    def decode(run: Run) -> Iterator[Row]:
        yield Row("decode", "noop", "attngen")

    known = {"forward": Section("forward", forward), "decode": Section("decode", decode)}
    session = Session(replace(MACHINE, alive=lambda: False), (tmp_path,), print, unguarded, known)
    before: report.Report | None = None
    sections, budget_s = ["forward", "decode"], 60.0
    for left in (2, 2):
        found = session.measured(sections, budget_s, before)
        assert isinstance(found, Interrupted)
        assert found.budget_s <= budget_s + 0.1
        before, sections, budget_s = report.from_json(report.as_json(found.report)), list(found.sections), found.budget_s
        assert len(sections) == left
    done = session.measured(sections, budget_s, before)
    assert isinstance(done, report.Report)
    assert [(row.workload.split()[0], row.contender, row.status) for row in done.rows] == [
        ("causal", "attngen", "failed"),
        ("the", "-", "failed"),
        ("causal", "flex", "ok"),
        ("noop", "attngen", "failed"),
        ("the", "-", "failed"),
        ("noop", "flex", "ok"),
        ("noop", "attngen", "ok"),
    ]
    assert done.budget_s == 60.0


def test_a_new_process_takes_over_with_what_is_left(tmp_path, monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: commands.append(arguments))
    so_far = report.Report("g", "2000-01-01", {}, 60.0, 9.0, 1.0, 1.0, (), (Row("forward", "the device", "-", "failed", note="lost"),))
    command.go_on(Interrupted(so_far, ("forward", "decode"), 51.0), tmp_path)
    options = command.arguments(commands[0][3:])
    assert (options.sections, options.budget, options.results) == (["forward", "decode"], 51.0, tmp_path)
    assert report.from_json(options.resume.read_text()) == so_far


def test_results_go_where_out_says(tmp_path, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    assert command.folders(tmp_path) == (tmp_path,)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert command.folders(tmp_path) == (tmp_path, tmp_path / "out")


def test_a_long_table_is_cut():
    rows = tuple(Row("forward", f"causal {i}", "attngen", tflops=1.0, share=0.5) for i in range(100))
    lines = report.table(report.Report("g", "2000-01-01", {}, 1.0, 1.0, 1.0, 1.0, (), rows))
    assert len(lines) < 40
    assert "76 more in the JSON" in lines


def test_first_calls_and_masks_have_columns_of_their_own():
    rows = (
        Row("forward", "causal", "attngen", tflops=400.0, share=0.5, first_s=3.25),
        Row("forward", "causal", "flex", tflops=350.0, share=0.4, first_s=12.5, setup_ms=7.0),
        Row("forward", "causal", "sdpa_efficient", "failed", note="no kernel"),
    )
    lines = report.table(report.Report("g", "2000-01-01", {}, 1.0, 1.0, 1.0, 1.0, (), rows))
    told = {line.partition(",")[0].partition(" (")[0]: lines[i + 2].split() for i, line in enumerate(lines) if line.startswith("forward: ")}
    assert list(told.values()) == [
        ["causal", "400", "0.50", "350", "0.40", "failed"],
        ["causal", "3.25", "12.5", "failed"],
        ["causal", "-", "7", "failed"],
    ]
    assert not any(row.counts for row in rows), "others may refuse"
    assert Row("forward", "causal", "attngen", "failed").counts

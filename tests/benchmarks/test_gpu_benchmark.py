"""The benchmark for GPUs without one: plans, budgets, checks of values, rows, tables, and what happens when something fails."""

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

import attngen
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import check, report, subprocesses, workloads
from benchmarks.gpu.budget import Budget, OutOfTime, alarm, part_of
from benchmarks.gpu.contenders import CONTENDERS, Built, Contender, NotImportable
from benchmarks.gpu.machine import Machine, missing, prepare_environment
from benchmarks.gpu.problems import VARIANTS, Problem, make
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import Run
from benchmarks.gpu.sections import SECTIONS, Section, measure_backward, measure_decode, measure_forward, measure_memory
from benchmarks.gpu.workloads import Step, Workload

CHECKOUT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SMALL = Workload("causal", dims=(16, 16), q_len=48, kv_len=48, batch=2, heads=(4, 2))


def milliseconds(run) -> float:
    run()
    return 2.0


def peak(run) -> int:
    run()
    return 10**6


MACHINE = Machine("a CPU", CPU, milliseconds, milliseconds, peak, lambda: None)


class Clock:
    """Seconds that pass when it is told."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def exact(problem: Problem) -> Built:
    """The formula itself, rounded as kernels round."""
    attend = attngen.compile(problem.spec())
    return Built(lambda: attend.reference(*problem.arguments()).to(torch.bfloat16), 0.003)


def nowhere(problem: Problem) -> Built:
    """Forgets to write the last row."""
    call = exact(problem).call

    def forgetful() -> torch.Tensor:
        out = call()
        mask = torch.ones_like(out)
        mask[:, :, -1] = float("nan")
        return out * mask

    return Built(forgetful)


def refusing(problem: Problem) -> Built:
    raise RuntimeError("no kernel for this\nand a long explanation")


def absent(problem: Problem) -> Built:
    raise NotImportable("its package cannot be imported")


def run_of(budget: Budget | None = None, **contenders) -> Run:
    known = {name: Contender(name, build, 5.0) for name, build in contenders.items()}
    return Run(MACHINE, budget or Budget.of(1000.0), 100.0, 50.0, contenders=known)


# ---- the command


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
    assert all(name in done.stdout for name in command.WEIGHTS)


def test_the_plan_begins_with_what_is_worth_most(capsys):
    assert command.main(["--dry-run", "--sections", "forward", "--budget", "115"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "forward: the grid, forward, inference, 100 s"
    assert lines[1].startswith("  causal b4 h16/16 n8192 d128: attngen, sdpa_cudnn")
    steps = list(workloads.grid())
    names = [(str(step.workload), name) for step in steps for name in step.contenders]
    assert len(set(names)) == len(names)
    variants, dims, lengths, heads = ({getattr(step.workload, field) for step in steps} for field in ("variant", "dims", "kv_len", "heads"))
    assert variants == set(VARIANTS)
    assert {(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)} <= dims
    assert set(workloads.GRID_LENGTHS) <= lengths
    assert heads == set(workloads.GRID_HEADS)
    assert {name for step in steps for name in step.contenders} == set(CONTENDERS)


def test_a_wrong_command_line_is_refused():
    for argv in (["--sections", "lunch"], ["--budget", "3"]):
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


def test_what_does_not_fit_is_skipped_and_said():
    clock = Clock()

    def slow(problem: Problem) -> Built:
        clock.at += 8.0
        return exact(problem)

    steps = [Step(replace(SMALL, variant=variant), ("one", "two")) for variant in ("causal", "noop")]
    rows = list(run_of(Budget.of(20.0, clock), one=slow, two=exact).each("forward", steps, measure_forward, grad=False))
    assert [row.status for row in rows] == ["ok", "ok", "ok", "skipped"]
    assert report.skipped(rows) == ("forward: 1 of 4 skipped, its share of the budget was used",)


# ---- values


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_the_same_for_attngen_and_for_the_check(variant):
    length = 512 if variant == "natten" else 64
    dims = (16, 32) if variant == "differential" else (16, 16)
    problem = make(Workload(variant, dims, length, length, 2, (4, 2)), CPU, grad=True)
    out = attngen.compile(problem.spec()).reference(*problem.arguments())
    assert check.output(problem, out).error < 1e-5
    found = list(torch.autograd.grad(out, problem.leaves, problem.cotangent.double()))
    assert check.gradients(problem, found).right
    for i in range(len(found)):
        wrong = [grad * 1.1 if i == j else grad for j, grad in enumerate(found)]
        assert not check.gradients(problem, wrong).right
    assert not check.gradients(problem, [torch.full_like(grad, float("nan")) for grad in found]).right


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS)
def test_flex_attention_gets_the_same_mods(variant, monkeypatch):
    """Not compiled: a CPU has no such kernel. What it is given is what counts."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    length = 512 if variant == "natten" else 64
    dims = (16, 32) if variant == "differential" else (16, 16)
    problem = make(Workload(variant, dims, length, length, 2, (4, 2)), CPU)
    built = CONTENDERS["flex"].build(problem)
    assert check.output(problem, built.call()).right
    assert (built.setup_s is None) == (problem.mods.mask is None)


def test_pairs_and_operations_are_counted_by_hand():
    problem = make(SMALL, CPU)
    assert problem.pairs == 48 * 49 // 2
    assert SMALL.flops(problem.pairs, 1, False) == 4.0 * 16 * problem.pairs * 2 * 4
    assert SMALL.flops(problem.pairs, 1, True) == 2.5 * SMALL.flops(problem.pairs, 1, False)
    assert replace(SMALL, dims=(8, 16)).flops(10, 2, False) == 2.0 * 10 * 2 * 4 * (2 * 8 + 16)


def test_draws_differ_and_are_shared_by_contenders():
    first, second = (make(SMALL, CPU, seed=seed) for seed in (1, 2))
    assert not torch.equal(first.v, second.v)
    assert torch.equal(first.v, make(SMALL, CPU, seed=1).v)


# ---- measurements


def test_what_is_right_is_timed_and_what_is_not_is_not():
    run = run_of(exact=exact, nowhere=nowhere, refusing=refusing, absent=absent)
    steps = [Step(SMALL, ("exact", "nowhere", "refusing", "absent")), Step(replace(SMALL, variant="noop"), ("absent", "exact"))]
    rows = list(run.each("forward", steps, measure_forward, grad=False))
    assert [(row.contender, row.status) for row in rows] == [
        ("exact", "ok"),
        ("nowhere", "wrong"),
        ("refusing", "failed"),
        ("absent", "absent"),
        ("exact", "ok"),
    ]
    good, wrong, failed, *_ = rows
    assert good.ms == 2.0
    assert good.tflops == pytest.approx(SMALL.flops(48 * 49 // 2, 1, False) / 2.0 / 1e9)
    assert good.share == pytest.approx((good.tflops or 0) / 100)
    assert (good.setup_ms, good.where) == (3.0, "o")
    assert (wrong.ms, wrong.tflops, wrong.share) == (None, None, None)
    assert failed.note == "RuntimeError: no kernel for this"


@pytest.mark.parametrize("measure", [measure_backward, measure_memory])
def test_gradients_are_checked_timed_and_weighed(measure):
    (row,) = run_of(exact=exact).each("backward", [Step(SMALL, ("exact",))], measure, grad=True)
    assert row.status == "ok"
    assert (row.ms, row.peak_mb) == ((2.0, None) if measure is measure_backward else (None, 1.0))


def test_wrong_gradients_are_not_timed():
    def halved(problem: Problem) -> Built:
        call = exact(problem).call

        def half() -> torch.Tensor:
            out = call()
            return out.detach() + 0.5 * (out - out.detach())

        return Built(half)

    (row,) = run_of(halved=halved).each("backward", [Step(SMALL, ("halved",))], measure_backward, grad=True)
    assert (row.status, row.ms) == ("wrong", None)
    assert row.error == pytest.approx(0.5, abs=0.01)


def test_decoding_is_counted_in_bytes():
    work = replace(SMALL, variant="noop", q_len=1)
    (row,) = run_of(exact=exact).each("decode", [Step(work, ("exact",))], measure_decode, grad=False)
    assert row.gb_per_s == pytest.approx(2 * (2 * 2 * 48 * 16) * 2 / 2.0 / 1e6)
    assert row.share == pytest.approx((row.gb_per_s or 0) / 50)


def test_attngen_and_sdpa_are_contenders_here_too():
    """The kernels themselves, in the interpreter, and a backend that this machine lacks."""
    work = Workload("causal", (16, 16), 20, 20, 1, (2, 1))
    steps = [Step(work, ("attngen", "sdpa_cudnn", "fa4"))]
    rows = list(replace(run_of(), contenders=CONTENDERS).each("forward", steps, measure_forward, grad=False))
    assert [row.status for row in rows] == ["ok", "failed", "absent"]


def test_masks_are_prepared_without_a_gpu(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.workloads.MASK_LENGTHS", (300,))
    rows = list(SECTIONS["mask"].rows(run_of()))
    assert [row.status for row in rows] == ["ok"] * 8
    ours = {row.workload: row.ms for row in rows if row.contender == "attngen"}
    assert ours["causal n300"] == 0.0
    assert (ours["document n300"] or 0) > 0


# ---- processes


def test_outcomes_are_counted_also_when_it_was_stopped(monkeypatch):
    output = (
        "tests/gpu/test_gpu.py::test_a[1] PASSED [ 10%]\n[gw0] [ 20%] PASSED tests/gpu/test_gpu.py::test_a[2]\n"
        "[gw1] [ 30%] FAILED tests/gpu/test_gpu.py::test_b\nFAILED tests/gpu/test_gpu.py::test_b - assert 1 == 2\n"
    )
    assert subprocesses.outcomes(output) == {"PASSED": 2, "FAILED": 1}
    monkeypatch.setattr(subprocesses, "finished", lambda *_: subprocesses.Finished(output, None))
    first, second = subprocesses.gpu_tests(run_of())
    assert (first.status, first.note) == ("failed", "2 passed, 1 failed, stopped when its time was over")
    assert (second.workload, second.note) == ("tests/gpu/test_gpu.py::test_b", "assert 1 == 2")


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
    done = command.measured(["forward", "decode"], 60.0, MACHINE, out=(tmp_path / "a", tmp_path / "b"), known=known)
    assert [row.status for row in done.rows] == ["ok", "wrong", "failed", "ok"]
    text = report.table(done)
    assert text[0] == "WRONG: forward causal flex: error 5.0e-01 in o"
    assert text[1] == "failed: forward the section itself -: ValueError: the section broke"
    assert any("42 0.42" in line and "wrong" in line for line in text)
    found = json.loads((tmp_path / "b" / f"{report.slug(done)}.json").read_text())
    assert found["device"] == "a CPU"
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    assert found["rows"][0] == {
        "section": "forward", "workload": "causal", "contender": "attngen", "status": "ok", "ms": 1.0, "tflops": 42.0, "share": 0.42,
    }  # fmt: skip
    pictures = {path.name.rpartition("-")[2] for path in (tmp_path / "a").glob("*.png")}
    assert pictures == {"forward.png", "decode.png"}


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

"""What the benchmark for GPUs measures, on a machine without one: values that are checked, and the rows that come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attngen
from benchmarks.gpu import check, report
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.contenders import CONTENDERS, Built
from benchmarks.gpu.problems import VARIANTS, Problem, make
from benchmarks.gpu.sections import SECTIONS, measure_backward, measure_decode, measure_forward, measure_memory
from benchmarks.gpu.workloads import Step, Workload
from tests.benchmarks.gpu_fakes import CPU, SMALL, Clock, absent, exact, nowhere, refusing, run_of


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

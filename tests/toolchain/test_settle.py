from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.cache.load import load_module
from attngen.errors import CompileFailed
from attngen.ir.parser import parse
from attngen.pipeline import analyse, build
from attngen.schedule.choose import Choice, Request, choose
from attngen.schedule.tables import Table
from attngen.schedule.tile_schedule import parse_tile
from attngen.targets import table as target
from attngen.toolchain.settle import Emitted, Task, compile_job, fault, measure, settle
from tests.variants import GATE, LEARNED_BIAS, SOFTMAX


def request_for(dim=64, arch="sm90", dtype="bfloat16"):
    return Request((("d", dim), ("e", dim)), dtype, target.get(arch))


def emit(folder, text, name):
    source = build(analyse(parse(text)), name)
    path = folder / f"{name}.py"
    path.write_text(source.text, encoding="utf-8")
    return Emitted(source, load_module(path, f"measured_{name}"))


@pytest.fixture(scope="module")
def softmax(tmp_path_factory):
    return emit(tmp_path_factory.mktemp("softmax"), SOFTMAX, "softmax")


def test_types_of_arguments(softmax, tmp_path):
    tile = parse_tile("64x32,w4,s2")
    rows = compile_job(Task(softmax, "backward_rows", request_for(), tile)).signature
    assert (rows["q_ptr"], rows["do_ptr"], rows["lse_safe_ptr"], rows["dq_out"]) == ("*bf16", "*bf16", "*fp32", "*bf16")
    assert (rows["q_stride_m"], rows["len_n"]) == ("i32", "i32")
    assert compile_job(Task(softmax, "forward", request_for(dtype="float64"), tile)).signature["lse_out"] == "*fp64"
    bias = compile_job(Task(emit(tmp_path, LEARNED_BIAS, "bias"), "forward", request_for(), tile)).signature
    assert (bias["bias_ptr"], bias["k_ptr"]) == ("*fp32", "*bf16")
    gate = compile_job(Task(emit(tmp_path, GATE, "gate"), "forward", request_for(), tile)).signature
    assert gate["gate_ptr"] == "*bf16", "an argument has the dtype of the others"


def test_a_measurement_reports_what_the_compiler_did(softmax):
    request = request_for()
    good, crowded = measure(
        [
            Task(softmax, "forward", request, parse_tile("128x64,w8,s2")),
            Task(softmax, "backward_columns", request, parse_tile("128x128,w4,s2")),
        ]
    )
    assert (good.spill_bytes, good.serialized, fault(good, request)) == (0, False, "")
    assert good.shared_bytes == good.shared_bytes_predicted == 49152
    assert good.structure == "forward:64>64.64;64+64;2;full"
    assert crowded.spill_bytes > 0
    assert fault(crowded, request)


@pytest.mark.parametrize(("arch", "dim"), [("sm90", 64), ("sm80", 128)])
def test_kernels_by_pairs_fit_and_spill_nothing_in_their_loop(tmp_path, arch, dim):
    biased = SOFTMAX.replace("e])", "e]; table: float[:])", 1).replace("* 0.25", "* 0.25 + table[m - n + extent(n)]", 1)
    emitted, request = emit(tmp_path, biased, f"pairs_{arch}"), request_for(dim, arch)
    tile = choose(emitted.source.program.facts, request, Table(())).schedule["backward_pairs"]
    (row,) = measure([Task(emitted, "backward_pairs", request, tile)])
    assert (row.loop_spill_bytes, row.serialized) == (0, False)
    assert row.shared_bytes <= row.shared_bytes_predicted <= request.target.shared_bytes


def test_settling_replaces_a_bad_leader_once(softmax):
    """128 x 128 scores on four warps cannot work; the choice is told to start there."""
    request = request_for()
    choice = choose(softmax.source.program.facts, request, Table(()))
    bad = parse_tile("128x128,w4,s2")
    good = parse_tile("64x32,w4,s2")
    worse = tuple(replace(reason, tile=bad, fallback=good) if reason.role == "backward_rows" else reason for reason in choice.reasons)
    spoiled = Choice(choice.schedule.replace({"backward_rows": bad}), worse)
    settled = settle(softmax, spoiled, request, ("backward_rows",))
    assert settled.schedule == choice.schedule.replace({"backward_rows": good})
    assert [(role, tile) for role, tile, _ in settled.rejected] == [("backward_rows", bad)]
    assert [row.tile for row in settled.measured] == [str(good)]


def test_settling_a_good_choice_changes_nothing(softmax):
    request = request_for(32, "sm80")
    choice = choose(softmax.source.program.facts, request, Table(()))
    settled = settle(softmax, choice, request)
    assert settled.schedule == choice.schedule
    assert settled.rejected == ()
    assert [row.shared_bytes <= row.shared_bytes_predicted for row in settled.measured] == [True] * len(choice.reasons)


def test_a_leader_that_cannot_run_and_has_no_fallback_is_an_error(softmax):
    request = request_for(256, "sm86")
    choice = choose(softmax.source.program.facts, request, Table(()))
    huge = parse_tile("128x128,w8,s3")
    reasons = tuple(replace(reason, tile=huge, fallback=None) if reason.role == "forward" else reason for reason in choice.reasons)
    with pytest.raises(CompileFailed):
        settle(softmax, Choice(choice.schedule.replace({"forward": huge}), reasons), request, ("forward",))

from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.errors import DoesNotFit
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.choose import SINGLE_STAGE_PENALTY, Request, choose, distinct, rank
from attngen.schedule.tables import Table, table
from attngen.targets import table as target
from tests.variants import ALL, CAUSAL_ALIBI, DIFFERENTIAL, SOFTMAX

ARCHS = [t.name for t in target.TARGETS]
EMPTY = Table(())


def request_for(d=64, e=None, dtype="bfloat16", arch="sm90", length="long"):
    return Request((("d", d), ("e", e or d)), dtype, target.get(arch), length)


@pytest.fixture(scope="module")
def kernels():
    return {name: analyse(parse(text)).facts for name, text in ALL.items()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.slow
def test_every_head_dim_up_to_256_fits_everywhere(kernels, arch, dtype):
    for d, e in ((8, 8), (64, 64), (192, 128), (256, 256)):
        for length in ("decode", "short", "long"):
            choice = choose(kernels["softmax"], request_for(d, e, dtype, arch, length), table())
            for reason in choice.reasons:
                assert reason.candidates[0].tile == reason.tile
                # Kernels in float64 only run in the interpreter.
                assert dtype == "float64" or reason.candidates[0].cost.shared_bytes <= target.get(arch).shared_bytes


@pytest.mark.parametrize("name", ALL)
def test_every_variant_gets_a_tile_for_each_kernel(kernels, name):
    choice = choose(kernels[name], request_for(128), EMPTY)
    tiles = choice.schedule.as_tiles(item.kernel for item in kernels[name])
    assert list(tiles) == [kernel.role for kernel in kernels[name]]
    assert choice.unsettled == tuple(tiles)


def test_choices_are_the_same_every_time(kernels):
    first, second = (choose(kernels["differential"], request_for(128), table()) for _ in range(2))
    assert first == second
    assert first.lines() == second.lines()


def test_plain_attention_rests_on_measurements(kernels):
    for name in ("softmax", "sink"):
        choice = choose(kernels[name], request_for(64), table())
        assert choice.unsettled == (), "the table holds this structure"
    for reason in choose(kernels["softmax"], request_for(64), table()).reasons:
        assert reason.row is not None
        assert reason.tile == reason.row.schedule


def test_other_arithmetic_takes_the_measured_tile_but_asks_for_a_compile(kernels):
    plain = choose(kernels["softmax"], request_for(64), table())
    forward = next(reason for reason in choose(kernels["entropy"], request_for(64), table()).reasons if reason.role == "backward_rows")
    assert forward.evidence == "similar"
    assert forward.tile == plain.schedule["backward_rows"]


def test_what_lost_is_kept_with_the_reason(kernels):
    for reason in choose(kernels["softmax"], request_for(128), EMPTY).reasons:
        first, *others = reason.candidates
        assert first.lost == ""
        assert others
        assert all(item.lost for item in others)
        assert len({replace(item.tile, num_stages=1) for item in reason.candidates}) == len(reason.candidates)
    choice = choose(kernels["softmax"], request_for(128), table())
    text = "\n".join(choice.lines())
    assert f"forward: {choice.schedule['forward']} (measured)" in text
    assert "times the predicted time" in text


def test_candidates_that_do_not_fit_come_last_and_say_which_bytes(kernels):
    ranked = rank(kernels["softmax"][0].work, request_for(256, arch="sm86"))
    lost = [item for item in ranked if item.cost.shared_bytes > target.get("sm86").shared_bytes]
    assert ranked[-len(lost) :] == tuple(lost)
    assert all(str(item.cost.shared_bytes) in item.lost for item in lost)
    fits = ranked[: -len(lost)]
    times = [item.cost.total_us * (SINGLE_STAGE_PENALTY if item.tile.num_stages == 1 else 1) for item in fits]
    assert times == sorted(times)
    assert {item.tile.num_stages for item in fits} > {1}, "tiles of both kinds are among them"
    assert len(distinct(ranked)) < len(ranked)


def test_one_stage_is_for_tiles_that_have_no_room_for_two(kernels):
    for arch, dim in (("sm80", 128), ("sm90", 512), ("gfx942", 256)):
        fits = [item for item in rank(kernels["softmax"][0].work, request_for(dim, arch=arch)) if "shared memory" not in item.lost]
        staged = [item.tile for item in fits if item.tile.num_stages > 1]
        single = [item for item in fits if item.tile.num_stages == 1]
        assert staged
        assert not {item.tile for item in single} & {replace(tile, num_stages=1) for tile in staged}
        assert all("without room for a second stage" in item.lost for item in single if item is not fits[0])


def test_a_fallback_needs_clearly_fewer_registers(kernels):
    for reason in choose(kernels["softmax"], request_for(128), EMPTY).reasons:
        if reason.fallback is not None:
            assert reason.fallback != reason.tile


@pytest.mark.parametrize(("arch", "dim"), [("sm86", 1024), ("sm90", 2048), ("gfx942", 2048), ("sm80", 4096)])
def test_a_head_dim_that_does_not_fit(kernels, arch, dim):
    with pytest.raises(DoesNotFit) as caught:
        choose(kernels["softmax"], request_for(dim, arch=arch), table())
    assert str(target.get(arch).shared_bytes) in caught.value.rule
    assert f"d = {dim}" in caught.value.rule
    assert "up to" in caught.value.remedy


def test_extents_that_are_cut_alike_share_a_tile(kernels):
    tiles = {choose(kernels["softmax"], request_for(n), table()).schedule for n in (66, 72, 79)}
    assert len(tiles) == 1


def test_masks_do_not_change_a_tile_that_was_not_measured():
    causal = CAUSAL_ALIBI.replace("  if m >= n\n", "\n")
    choices = [choose(analyse(parse(text)).facts, request_for(128), EMPTY).schedule for text in (CAUSAL_ALIBI, causal)]
    assert choices[0]["forward"] == choices[1]["forward"]


def test_a_row_of_another_target_or_dtype_is_no_evidence(kernels):
    rows = [replace(row, arch="sm80") for row in table().rows if row.arch == "sm90"]
    choice = choose(kernels["softmax"], request_for(64), Table(tuple(rows)))
    assert all(reason.evidence == "model" for reason in choice.reasons)


def test_more_products_mean_smaller_tiles():
    plain, double = (choose(analyse(parse(text)).facts, request_for(128), EMPTY).schedule["forward"] for text in (SOFTMAX, DIFFERENTIAL))
    assert double.resident * (double.streamed or 1) < plain.resident * (plain.streamed or 1)

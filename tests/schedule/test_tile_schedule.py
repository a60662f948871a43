from __future__ import annotations

import pytest

from attngen.errors import ScheduleError
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule, check_roles, override, parse_schedule, parse_tile
from tests.variants import SOFTMAX

CHOSEN = parse_schedule("forward=128x64,w8,s2 backward_prepare=64,w4,s1 backward_rows=128x64,w8,s2 backward_columns=128x32,w8,s3")


@pytest.fixture(scope="module")
def facts():
    return analyse(parse(SOFTMAX)).facts


@pytest.fixture(scope="module")
def kernels(facts):
    return tuple(item.kernel for item in facts)


@pytest.mark.parametrize(
    "text", ["128x64,w8,s2", "64,w4,s1", "16x256,w1,s6", "128x64,w8,s2,pipe,tma", "64x64,w8,s2,pipe,late,tma", "64x64,w4,s2,tma"]
)
def test_tiles_parse_back(text):
    assert str(parse_tile(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "128x64",
        "128x64,w8",
        "128x64,w8,s2,",
        "0x64,w8,s2",
        "48x64,w8,s2",
        "128x64,w3,s2",
        "64x64,w4,s9",
        "-16,w4,s1",
        "128x64,w8,s2,tma,pipe",
        "128x64,w8,s2,late,tma",
    ],
)
def test_texts_that_are_no_tile(text):
    with pytest.raises(ScheduleError):
        parse_tile(text)


def test_modules_parse_back():
    assert parse_schedule(str(CHOSEN)) == CHOSEN
    assert CHOSEN["backward_columns"] == TileSchedule(128, 32, 8, 3)
    for text in ("forward", "forward=", "forward=64x64,w4,s2 forward=64x64,w4,s2"):
        with pytest.raises(ScheduleError):
            parse_schedule(text)


@pytest.mark.parametrize(
    "values", [(0, 64, 4, 2), (64, 48, 4, 2), (64, 64, 3, 2), (64, 64, 4, 0), (64, 64, True, 2), (64.0, 64, 4, 2), (512, 64, 4, 2)]
)
def test_illegal_values(values):
    with pytest.raises(ScheduleError):
        TileSchedule(*values)


def test_as_tiles_names_the_blocks_by_the_axes_of_each_kernel(kernels):
    tiles = CHOSEN.as_tiles(kernels)
    assert tiles["forward"] == {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}
    assert tiles["backward_prepare"] == {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1}
    assert tiles["backward_columns"] == {"BLOCK_N": 128, "BLOCK_M": 32, "num_warps": 8, "num_stages": 3}


def test_a_streaming_kernel_needs_a_streamed_block(kernels):
    with pytest.raises(ScheduleError):
        ModuleSchedule((("forward", TileSchedule(64, None, 4, 1)),)).as_tiles(kernels[:1])
    with pytest.raises(ScheduleError):
        ModuleSchedule(()).as_tiles(kernels)


def test_override_of_one_role_leaves_the_others(facts):
    changed = override(CHOSEN, facts, {"forward": {"BLOCK_N": 32, "num_stages": 3}})
    assert changed["forward"] == TileSchedule(128, 32, 8, 3)
    assert changed["backward_columns"] == CHOSEN["backward_columns"]


def test_override_of_all_roles_at_once(facts):
    changed = override(CHOSEN, facts, {"BLOCK_M": 16, "num_warps": 4})
    assert changed["forward"] == TileSchedule(16, 64, 4, 2)
    assert changed["backward_prepare"] == TileSchedule(16, None, 4, 1)
    assert changed["backward_columns"] == TileSchedule(128, 16, 4, 3)
    assert override(CHOSEN, facts, {}) == CHOSEN


@pytest.mark.parametrize(
    "given",
    [
        "fast",
        {"forwards": {"num_warps": 4}},
        {"forward": 4},
        {"forward": {"BLOCK_K": 64}},
        {"backward_prepare": {"BLOCK_N": 64}},
        {"forward": {"num_warps": 3}},
        {"forward": {"num_warps": "8"}},
        {"forward": {"num_warps": True}},
        {"forward": {"BLOCK_M": 100}},
        {"forward": {"BLOCK_M": None}},
        {"forward": {3: 4}},
        {"forward": {"num_warps": 4}, "num_stages": 2},
        {"num_warp": 4},
        {"num_warps": 5},
        {"forward": {"LATE": True}},
        {1: 2},
    ],
    ids=str,
)
def test_illegal_overrides(facts, given):
    with pytest.raises(ScheduleError) as caught:
        override(CHOSEN, facts, given)
    assert caught.value.remedy


def test_late_goes_with_pipe(facts):
    late = override(CHOSEN, facts, {"forward": {"PIPE": True, "LATE": True}})
    assert str(late["forward"]).endswith(",pipe,late")
    plain = override(late, facts, {"forward": {"PIPE": False}})["forward"]
    assert not plain.pipe and not plain.late


def test_forms_that_a_kernel_lacks_may_be_left_off(facts):
    """There is no other form than the plain one."""
    prepare = next(kernel for kernel in facts if kernel.role == "backward_prepare")
    assert override(CHOSEN, facts, {prepare.role: {"PIPE": False, "TMA": False, "num_warps": 8}})[prepare.role].num_warps == 8
    assert override(CHOSEN, (prepare,), {"PIPE": False}) == CHOSEN
    for value in (True, 0, None):
        with pytest.raises(ScheduleError, match="no value called 'PIPE'"):
            override(CHOSEN, facts, {prepare.role: {"PIPE": value}})


def test_roles_are_known_before_kernels_are_built():
    roles = ("forward", "backward_rows")
    check_roles({"forward": {"BLOCK_M": 64}}, roles)
    check_roles({"BLOCK_M": 64}, roles)
    with pytest.raises(ScheduleError, match=r"'foward'(.|\n)*backward_rows, forward"):
        check_roles({"foward": {"BLOCK_M": 64}}, roles)


def test_errors_name_what_is_legal(facts):
    with pytest.raises(ScheduleError, match="BLOCK_M, BLOCK_N, LATE, PIPE, SPECIALISED, TMA, num_stages, num_warps"):
        override(CHOSEN, facts, {"forward": {"BLOCK_K": 64}})
    with pytest.raises(ScheduleError, match="16, 32, 64, 128, 256"):
        override(CHOSEN, facts, {"forward": {"BLOCK_M": 100}})
    with pytest.raises(ScheduleError, match="backward_columns"):
        override(CHOSEN, facts, {"backward": {"BLOCK_M": 64}})

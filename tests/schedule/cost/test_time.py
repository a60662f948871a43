"""The models against what compilers reported: the committed table is the evidence, nothing is compiled here."""

from __future__ import annotations

import pytest

from attngen.ir.parser import parse
from attngen.pipeline import analyse, fused
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.cost.time import price, register_estimate
from attngen.schedule.space import uses_wide_units
from attngen.schedule.tables import table
from attngen.schedule.tile_schedule import parse_tile
from attngen.targets import table as target
from tests.variants import SOFTMAX

KIB = 1024
SM90 = target.get("sm90")
DIMS = {"d": 128, "e": 128}
ROWS = table().rows


@pytest.fixture(scope="module")
def roles():
    program = analyse(parse(SOFTMAX))
    forms = (program, fused(program))
    return {item.role: item.work for form in forms if form is not None for item in form.facts}


@pytest.mark.parametrize("arch", sorted({row.arch for row in ROWS}))
def test_the_model_of_shared_memory_is_never_below_and_seldom_above(arch):
    streaming = [row for row in ROWS if row.arch == arch and row.schedule.streamed is not None]
    assert len(streaming) > 60
    for row in streaming:
        over = row.shared_bytes_predicted - row.shared_bytes
        assert over >= 0, row
        bar = 2 * KIB if arch == "sm90" and row.schedule.num_stages >= 2 else row.shared_bytes / 4
        if target.get(arch).backend == "hip":
            continue
        assert over <= bar, row


def test_the_table_holds_what_the_model_says_today(roles):
    """Changing the model means measuring again, or at least writing the table again."""
    checked = 0
    for row in ROWS:
        held = roles[row.structure.partition(":")[0]]
        extents = [int(extent) for extent in row.dims.split(",")]
        dims = dict(zip(held.features, extents, strict=True)) if len(extents) == len(held.features) else {}
        if dims and row.structure.rpartition(";")[0] == held.key(dims).rpartition(";")[0]:
            assert shared_bytes(held, dims, row.dtype, row.schedule, target.get(row.arch)) == row.shared_bytes_predicted, row
            checked += 1
    assert checked > len(ROWS) / 2


@pytest.mark.parametrize(
    ("role", "tile", "shared"),
    [
        ("forward", "128x64,w8,s2", 128 * 128 * 2 + 2 * (2 * 64 * 128 * 2)),
        ("backward_rows", "128x64,w8,s2", 2 * 128 * 128 * 2 + 2 * (2 * 64 * 128 * 2)),
        ("backward_columns", "128x32,w8,s2", 2 * 128 * 128 * 2 + 2 * (2 * 32 * 128 * 2) + KIB),
    ],
)
def test_hopper_keeps_resident_tiles_and_a_ring_of_streamed_ones(roles, role, tile, shared):
    assert shared_bytes(roles[role], DIMS, "bfloat16", parse_tile(tile), SM90) == shared


def test_more_stages_and_larger_tiles_take_more_shared_memory(roles):
    held = roles["forward"]
    sizes = [
        shared_bytes(held, DIMS, "bfloat16", parse_tile(t), SM90) for t in ("64x32,w4,s2", "64x32,w4,s3", "64x64,w4,s3", "128x64,w4,s3")
    ]
    assert sizes == sorted(set(sizes))


def test_asynchronous_units_need_64_rows_and_two_bytes():
    assert uses_wide_units(parse_tile("64x64,w4,s2"), "float16", SM90)
    assert not uses_wide_units(parse_tile("32x64,w4,s2"), "float16", SM90)
    assert not uses_wide_units(parse_tile("64x64,w4,s2"), "float32", SM90)
    assert not uses_wide_units(parse_tile("64x64,w4,s2"), "float16", target.get("sm80"))


def test_registers_fall_with_warps(roles):
    four, eight = (register_estimate(roles["forward"], DIMS, "bfloat16", parse_tile(f"128x64,w{w},s2"), SM90) for w in (4, 8))
    assert eight < SM90.registers_per_thread < four


def test_time_goes_with_the_work(roles):
    tile = parse_tile("128x64,w8,s2")
    half, whole = (price(roles["forward"], dict.fromkeys("de", n), "bfloat16", tile, SM90) for n in (64, 128))
    assert whole.tensor_cycles == 2 * half.tensor_cycles == 4 * 128 * 64 * 128 / SM90.bf16_flops_per_clock
    assert whole.sfu_cycles == half.sfu_cycles == 128 * 64 / SM90.exp2_per_clock
    assert whole.traffic_bytes == 2 * 64 * 128 * 2
    assert whole.total_us > half.total_us
    # 64 heads of 4096 queries and keys cannot be faster than the peak of the named part.
    flops = 64 * 4 * 4096 * 4096 * 128
    assert flops / whole.total_us / 1e6 < SM90.bf16_tflops

"""The committed table: what it must hold, and the bars that its numbers meet."""

from __future__ import annotations

import itertools

import pytest

from attngen.errors import ScheduleError
from attngen.schedule.backward_choice import SPILLED_BYTES
from attngen.schedule.tables import read, table, write
from attngen.targets import table as target

ROWS = table().rows
# What has been measured in full; other targets and dtypes take the row of a sister or the model, and are settled by a compile.
GRID = [
    ("sm90", "bfloat16"),
    ("sm80", "bfloat16"),
    ("sm86", "bfloat16"),
    ("sm89", "bfloat16"),
    ("sm100", "bfloat16"),
    ("sm120", "bfloat16"),
    ("sm90", "float16"),
]
HEAD_DIMS = ("8", "16", "24", "32", "40", "64", "96", "128", "192,128", "256")
ROLES = ("forward", "backward_rows", "backward_columns")


def rows(arch, dtype, dims, role, masks, length="long"):
    """Rows of plain attention: among those with one exponential and the fewest operations, that which reads least besides."""
    dims = dims if "," in dims else f"{dims},{dims}"
    found = [
        row
        for row in ROWS
        if (row.arch, row.dtype, row.dims, row.length, row.special) == (arch, dtype, dims, length, 1)
        and row.structure.startswith(f"{role}:")
        and row.structure.endswith(masks)
    ]
    plainest = min(found, key=lambda row: (row.simple, len(row.structure)), default=None)
    return [row for row in found if plainest is not None and (row.simple, row.structure) == (plainest.simple, plainest.structure)]


def test_the_table_is_sorted_and_written_as_it_is_read():
    assert list(ROWS) == sorted(ROWS)
    assert read(write(ROWS)).rows == ROWS


def test_a_case_has_one_chosen_tile():
    chosen = [row.case for row in ROWS if row.rank == "chosen"]
    assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize(("arch", "dtype"), GRID)
def test_the_grid_is_complete(arch, dtype):
    for dims, role, masks in itertools.product(HEAD_DIMS, ROLES, ("full", "masked")):
        assert rows(arch, dtype, dims, role, masks), (dims, role, masks)


def test_every_chosen_kernel_fits_its_target():
    for row in ROWS:
        assert row.shared_bytes <= target.get(row.arch).shared_bytes, row
        assert row.tensor_memory_columns <= 512, row
        assert row.registers <= target.get(row.arch).registers_per_thread, row


@pytest.mark.parametrize(("dims", "masks"), list(itertools.product(("64", "128"), ("full", "masked"))))
def test_hopper_forward_spills_nothing(dims, masks):
    found = [row for row in rows("sm90", "bfloat16", dims, "forward", masks) if row.rank == "chosen"]
    assert found
    for row in found:
        assert (row.spill_bytes, row.loop_spill_bytes, row.serialized) == (0, 0, False), row


@pytest.mark.parametrize(("role", "masks"), list(itertools.product(ROLES[1:], ("full", "masked"))))
def test_hopper_backward_spills_little_or_nothing(role, masks):
    (small,) = (row for row in rows("sm90", "bfloat16", "64", role, masks) if row.rank == "chosen")
    assert (small.spill_bytes, small.serialized) == (0, False)
    found = {row.rank: row for row in rows("sm90", "bfloat16", "128", role, masks)}
    assert found["chosen"].loop_spill_bytes <= 32
    assert not found["chosen"].serialized
    assert found["chosen"].spill_bytes == 0 or found["no spill"].spill_bytes == 0


@pytest.mark.parametrize(("arch", "dtype"), GRID)
def test_plain_attention_never_runs_its_products_one_after_the_other(arch, dtype):
    for dims, role, masks in itertools.product(HEAD_DIMS, ROLES, ("full", "masked")):
        assert not any(row.serialized for row in rows(arch, dtype, dims, role, masks)), (dims, role, masks)


def test_tiles_of_the_catalogue_were_compiled_for_hopper():
    """Differential attention and the sigmoid keep other tensors than plain attention does, and no tile of theirs spills in two walks."""
    for dims in ("64,64", "128,128"):
        mine = [row for row in ROWS if (row.arch, row.dtype, row.dims) == ("sm90", "bfloat16", dims) and row.special == 2]
        mine = [row for row in mine if not row.structure.startswith("backward_fused")]
        assert len(mine) >= 6
        assert all(row.loop_spill_bytes == 0 for row in mine)


def test_one_walk_has_tiles_where_it_may_run():
    found = [row for row in ROWS if row.structure.startswith("backward_fused")]
    assert {(row.arch, row.dims) for row in found} >= {("sm90", "64,64"), ("sm90", "128,128"), ("sm80", "64,64"), ("sm80", "128,128")}
    assert not any(row.serialized for row in found)
    small = [row for row in found if row.dims == "64,64" and row.special == 1]
    assert all(row.loop_spill_bytes <= SPILLED_BYTES for row in small)


@pytest.mark.parametrize("text", ["", "[]", '{"columns": [], "rows": []}'])
def test_a_damaged_table_is_noticed(text):
    with pytest.raises((ValueError, TypeError, KeyError)):
        read(text)


def test_a_row_with_an_illegal_tile_is_noticed():
    with pytest.raises(ScheduleError):
        _ = read(write(ROWS[:1]).replace(ROWS[0].tile, "17,w4,s1")).rows[0].schedule

"""A user's tiles meet the kernels of a program in one place."""

from __future__ import annotations

import pytest

import attngen
from attngen.errors import ScheduleError
from attngen.knobs import Knobs
from attngen.plan.options import Frozen, Options, asked_alternates, freeze, own_schedule, thaw
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.runtime.kernel_table import KernelTable

TILE = {"BLOCK_N": 32, "num_warps": 8}
SPLIT, PACKED = ProgramKey(gradients=FORWARD_ONLY, split=True), ProgramKey(gradients=FORWARD_ONLY)


def own(schedule: dict[str, object], key: ProgramKey) -> Frozen | None:
    table = KernelTable(attngen.attention().cascade, "asked", Options("sm90"), Knobs.from_env())
    return own_schedule(freeze(schedule), table.program(key), few=key.gradients == FORWARD_ONLY)


def test_freezing_is_undone_by_thawing() -> None:
    assert thaw(freeze({"forward": TILE, "backward_rows": {}})) == {"forward": TILE, "backward_rows": {}}
    with pytest.raises(ScheduleError, match="not a dict"):
        freeze([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [ProgramKey(), ProgramKey(fused=True), PACKED])
def test_tiles_of_kernels_that_a_program_lacks_are_those_of_others(key: ProgramKey) -> None:
    asked = {"forward": TILE, "backward_rows": TILE, "backward_fused": TILE, "backward_columns": {}}
    roles = {"backward_rows"} if key == ProgramKey() else {"backward_fused"} if key.fused else set[str]()
    assert own(asked, key) == tuple((role, freeze(TILE)) for role in ("forward", *sorted(roles)))


def test_values_for_all_kernels_stay() -> None:
    for key in (ProgramKey(), ProgramKey(fused=True), PACKED):
        assert own(TILE, key) == freeze(TILE)


def test_a_slice_of_the_keys_has_the_tile_of_the_forward() -> None:
    expected = (("forward_parts", freeze(TILE)),)
    assert own(TILE, SPLIT) == own({"forward": TILE, "backward_rows": {"num_warps": 4}}, SPLIT) == expected
    assert own({"backward_rows": TILE}, SPLIT) is own({}, SPLIT) is None


def test_few_rows_do_not_specialise_warps() -> None:
    asked = {"forward": {"SPECIALISED": True, "BLOCK_N": 64}}
    assert asked_alternates(own(asked, ProgramKey()))
    assert own(asked, PACKED) == (("forward", (("BLOCK_N", 64),)),)
    assert own(asked, SPLIT) == (("forward_parts", (("BLOCK_N", 64),)),)
    assert own({"SPECIALISED": True}, PACKED) is None

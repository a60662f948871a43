from __future__ import annotations

import pytest

from attngen.alternates.warp_specialization.specialised_forward import SpecialisedForward
from attngen.errors import ScheduleError
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.space import alternate_tiles
from attngen.targets import table as targets
from tests.variants import SOFTMAX

FORWARD = SpecialisedForward()
SM90 = targets.get("sm90")


@pytest.fixture(scope="module")
def held():
    return analyse(parse(SOFTMAX), wanted=frozenset()).facts[0].work


@pytest.mark.parametrize(
    ("arch", "dtype", "length", "count"),
    [("sm90", "bfloat16", "long", 2), ("sm90", "float32", "long", 0), ("sm80", "bfloat16", "long", 0), ("sm90", "float16", "short", 0)],
)
def test_tiles_are_for_long_sequences_of_two_byte_elements(held, arch, dtype, length, count):
    assert held.alternates == (FORWARD.flag,)
    tiles = alternate_tiles(held, dtype, targets.get(arch), length)
    assert len(tiles) == count
    assert all((tile.resident, tile.num_warps, tile.tma, tile.pipe) == (128, 8, True, False) for tile in tiles)


def test_shared_memory_is_queries_rings_and_barriers(held):
    tile = alternate_tiles(held, "bfloat16", SM90)[0]
    expected = 2 * (128 * 64 + 2 * (tile.streamed or 0) * (64 + 64)) + 1056
    assert shared_bytes(held, {"d": 64, "e": 64}, "bfloat16", tile, SM90) == expected


def test_a_launch_has_the_warps_of_one_worker():
    launch = FORWARD.launch(8, 3)
    assert (launch.num_warps, launch.constants) == (4, (("STAGES", 3),))


def test_what_it_cannot_run_with_is_refused():
    FORWARD.check({"d": 256, "e": 96}, "float16", SM90)
    for extents, dtype, arch, message in (
        ({"d": 576}, "float16", "sm90", "up to 256 columns, and one of 512"),
        ({"d": 64}, "float32", "sm90", "not for float32 on sm90"),
        ({"d": 64}, "bfloat16", "sm80", "not for bfloat16 on sm80"),
    ):
        with pytest.raises(ScheduleError, match=message):
            FORWARD.check(extents, dtype, targets.get(arch))

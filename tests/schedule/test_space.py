from __future__ import annotations

import pytest

from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.space import candidates, length_class
from attngen.targets import table as target
from tests.variants import SOFTMAX


@pytest.fixture(scope="module")
def roles():
    return {item.role: item.work for item in analyse(parse(SOFTMAX)).facts}


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [((1, 8192), "decode"), ((16, 16), "decode"), ((17, 17), "short"), ((512, 512), "short"), ((512, 513), "long"), ((0, 0), "decode")],
)
def test_length_classes(lengths, expected):
    assert length_class(*lengths) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("arch", [t.name for t in target.TARGETS])
def test_candidates_come_in_one_order_and_once(roles, arch, dtype):
    for held in roles.values():
        found = list(candidates(held, dtype, target.get(arch)))
        assert found == list(candidates(held, dtype, target.get(arch)))
        assert len(set(found)) == len(found) > 3


def test_a_kernel_without_a_stream_has_no_streamed_block(roles):
    assert all(tile.streamed is None for tile in candidates(roles["backward_prepare"], "bfloat16", target.get("sm90")))


def test_few_queries_get_a_small_tile_on_their_side(roles):
    tiles = {role: list(candidates(held, "bfloat16", target.get("sm90"), "decode")) for role, held in roles.items() if held.streamed_tiles}
    assert {tile.resident for tile in tiles["forward"]} == {16}
    assert {tile.resident for tile in tiles["backward_rows"]} == {16}
    assert {tile.streamed for tile in tiles["backward_columns"]} == {16}


def test_products_without_matrix_units_get_small_tiles(roles):
    tiles = list(candidates(roles["forward"], "float32", target.get("sm90")))
    assert max(max(tile.resident, tile.streamed) for tile in tiles) <= 32
    assert any(tile.resident == 128 for tile in candidates(roles["forward"], "float32", target.get("gfx942")))

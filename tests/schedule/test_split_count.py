"""Tiles of the kernels that walk parts of a stream and merge them: what they may be, and what a compiler makes of them."""

from __future__ import annotations

import json

import pytest

from attngen.cli.commands import main
from attngen.errors import ScheduleError
from attngen.facts.kernel_facts import kernel_facts
from attngen.ir.parser import parse
from attngen.kernel.split_kv import split_forward
from attngen.pipeline import analyse
from attngen.schedule.choose import Request, choose
from attngen.schedule.space import candidates
from attngen.schedule.tables import Table, table
from attngen.schedule.tile_schedule import override
from attngen.targets import table as target
from tests.variants import CAUSAL_ALIBI, ENTROPY

WHOLE = analyse(parse(CAUSAL_ALIBI), wanted=frozenset()).facts[0]
PARTS, MERGE = map(kernel_facts, split_forward(WHOLE.kernel))
DIMS = {"d": 128, "e": 128}


def request(dim: int, dtype: str = "bfloat16", arch: str = "sm90") -> Request:
    return Request((("d", dim), ("e", dim)), dtype, target.get(arch), "decode")


def test_a_part_has_the_tiles_of_the_whole() -> None:
    parts, whole = PARTS.work, WHOLE.work
    assert (parts.key(DIMS), parts.arithmetic) == (whole.key(DIMS), whole.arithmetic)
    tiles = [list(candidates(item, "bfloat16", target.get("sm90"), "decode")) for item in (parts, whole)]
    assert tiles[0] == tiles[1]
    long = Request((("d", 128), ("e", 128)), "bfloat16", target.get("sm90"))
    assert choose((PARTS,), long, table()).schedule["forward_parts"] == choose((WHOLE,), long, table()).schedule["forward"]


@pytest.mark.parametrize(
    ("dim", "dtype", "streamed"), [(64, "bfloat16", 64), (128, "bfloat16", 64), (256, "bfloat16", 32), (512, "float32", 16)]
)
def test_a_merge_takes_as_many_parts_as_registers_hold(dim: int, dtype: str, streamed: int) -> None:
    tile = choose((MERGE,), request(dim, dtype), Table(())).schedule["forward_merge"]
    assert (tile.resident, tile.streamed, tile.num_warps) == (1, streamed, 4)


def test_rows_of_other_kernels_are_those_of_products() -> None:
    chosen = choose((PARTS, MERGE), request(64), Table(())).schedule
    changed = override(chosen, (PARTS, MERGE), {"forward_merge": {"BLOCK_M": 2, "BLOCK_PART": 16}})
    assert (changed["forward_merge"].resident, changed["forward_merge"].streamed) == (2, 16)
    with pytest.raises(ScheduleError, match="one of 16, 32, 64, 128, 256"):
        override(chosen, (PARTS, MERGE), {"forward_parts": {"BLOCK_M": 2}})


@pytest.mark.kernels
def test_compiled_for_sm90(capsys: pytest.CaptureFixture[str]) -> None:
    """No spills, two programs of a part on each multiprocessor, shared memory as predicted."""
    assert main(["inspect", "full", "--few", "--arch", "sm90", "--json"]) == 0
    parts, merge = json.loads(capsys.readouterr().out)
    assert (parts["role"], merge["role"]) == ("forward_parts", "forward_merge")
    for found in (parts, merge):
        assert (found["spill_bytes"], found["shared_bytes"]) == (0, found["shared_bytes_predicted"])
    threads = 2 * 32 * parts["num_warps"]
    assert threads * parts["registers"] <= target.get("sm90").registers_per_sm
    assert 2 * (parts["shared_bytes"] + 1024) <= target.get("sm90").shared_bytes_per_sm


def test_a_merge_of_several_states() -> None:
    held = kernel_facts(split_forward(analyse(parse(ENTROPY), wanted=frozenset()).kernels[0])[1]).work
    assert (held.combines_splits, held.streamed_tiles, held.carried, held.dots) == (True, ("e",), ("e",), ())

from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.errors import ScheduleError
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.choose import Request, choose
from attngen.schedule.tables import table
from attngen.schedule.tile_schedule import parse_tile
from attngen.schedule.tuned import Tuned, TunedTable, read, shipped, table_of, write
from attngen.targets import table as target
from tests.variants import SOFTMAX

REQUEST = Request((("d", 64), ("e", 64)), "bfloat16", target.get("sm90"))


@pytest.fixture(scope="module")
def kernels():
    return analyse(parse(SOFTMAX)).facts


def row_for(kernel, tile="64x32,w4,s3", **changes):
    held = kernel.work
    special, simple = held.arithmetic
    row = Tuned(
        "sm90", "bfloat16", "long", held.key(REQUEST.extents), special, simple, "64,64", tile, 90.0, "128x64,w8,s2", 100.0, 7, "a GPU", "3"
    )
    return replace(row, **changes)


def test_the_shipped_table_is_read_and_written_alike():
    assert read(write(shipped())) == shipped()


def test_a_timed_tile_goes_before_a_compiled_one(kernels):
    before = choose(kernels, REQUEST, table())
    choice = choose(kernels, REQUEST, table(), table_of([row_for(kernels[0])]))
    first, *others = choice.reasons
    assert (first.tile, first.evidence) == (parse_tile("64x32,w4,s3"), "tuned")
    assert [item.tile for item in others] == [item.tile for item in before.reasons[1:]]
    assert first.candidates[0].tile == first.tile
    assert all(item.lost for item in first.candidates[1:])
    assert choice.unsettled == before.unsettled == ()
    assert first.lines()[0] == "forward: 64x32,w4,s3 (tuned): 90 us a call, 128x64,w8,s2 100 us, best of 7 timed on a GPU"


@pytest.mark.parametrize(
    "change", [{"arch": "sm80"}, {"dtype": "float16"}, {"length": "short"}, {"structure": "forward:other"}, {"simple": 1}]
)
def test_only_exact_matches_count(kernels, change):
    choice = choose(kernels, REQUEST, table(), table_of([row_for(kernels[0], **change)]))
    assert choice == choose(kernels, REQUEST, table())


def test_of_two_tables_the_upper_one_answers(kernels):
    mine, theirs = row_for(kernels[0]), row_for(kernels[0], tile="128x128,w8,s2")
    other = row_for(kernels[0], arch="sm80")
    assert table_of([mine]).over(table_of([theirs, other])) == TunedTable(tuple(sorted([mine, other])))


def test_another_format_is_empty_and_damage_is_noticed(kernels):
    text = write(table_of([row_for(kernels[0])]))
    assert read(text).rows
    assert read(text.replace('"version": 1', '"version": 0')) == TunedTable()
    for damaged in ("", "[]", "{}", text.replace("call_us", "time")):
        with pytest.raises((ValueError, TypeError, KeyError)):
            read(damaged)
    with pytest.raises(ScheduleError):
        read(text.replace("64x32,w4,s3", "17,w4,s1"))

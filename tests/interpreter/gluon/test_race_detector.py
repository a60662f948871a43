from __future__ import annotations

import numpy as np
import pytest

from attngen.interpreter.gluon.race_detector import Access, Accesses, ProtocolError, join


def access(data, writes, actor, epoch=1):
    return Access(data, writes, actor, epoch, f"{actor} {epoch}")


@pytest.mark.parametrize(("first", "second", "fits"), [(0, 0, True), (0, 1, False), (1, 0, False), (1, 1, False)])
def test_two_accesses_of_which_one_writes_must_be_ordered(first, second, fits):
    data = np.zeros(8)
    for clock, ordered in (({"b": 1}, False), ({"a": 1, "b": 1}, True)):
        accesses = Accesses()
        accesses.add(access(data, bool(first), "a"), {"a": 1})
        if fits or ordered:
            accesses.add(access(data, bool(second), "b"), clock)
        else:
            with pytest.raises(ProtocolError, match=r"b 1 (reads|writes) shared memory that a 1 (reads|writes)"):
                accesses.add(access(data, bool(second), "b"), clock)


def test_a_clock_must_cover_the_epoch():
    accesses, data = Accesses(), np.zeros(8)
    accesses.add(access(data, True, "a", 2), {"a": 2})
    with pytest.raises(ProtocolError):
        accesses.add(access(data, False, "b"), {"a": 1, "b": 1})


def test_only_memory_that_overlaps_counts():
    accesses, data = Accesses(), np.zeros((2, 4, 6))
    accesses.add(access(data[0].transpose(1, 0), True, "a"), {"a": 1})
    accesses.add(access(data[1], True, "b"), {"b": 1})
    accesses.add(access(data[1, :, :3], True, "c"), {"b": 1, "c": 1})
    accesses.add(access(data[1, :, 3:], True, "d"), {"b": 1, "d": 1})
    with pytest.raises(ProtocolError, match="that c 1 writes"):
        accesses.add(access(data[1, 2:], False, "e"), {"b": 1, "d": 1, "e": 1})


def test_every_reader_must_have_ended_before_a_write():
    accesses, data = Accesses(), np.zeros(8)
    accesses.add(access(data, True, "loader"), {"loader": 1})
    accesses.add(access(data, False, "a"), {"a": 1, "loader": 1})
    accesses.add(access(data, False, "b"), {"b": 1, "loader": 1})
    with pytest.raises(ProtocolError, match="that b 1 reads"):
        accesses.add(access(data, True, "loader", 2), {"a": 1, "loader": 2})
    accesses.add(access(data, True, "loader", 2), {"a": 1, "b": 1, "loader": 2})


def test_joined_clocks_cover_both():
    clock = {"a": 3, "b": 1}
    join(clock, {"a": 2, "b": 5, "c": 1})
    assert clock == {"a": 3, "b": 5, "c": 1}

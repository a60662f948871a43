from __future__ import annotations

import pytest
import triton.language as tl

from attngen.interpreter.gluon.race_detector import ProtocolError
from attngen.interpreter.gluon.shared_buffers import MBARRIER, Barrier, Memory, allocate_shared_memory, barrier_of
from attngen.interpreter.gluon.warp_scheduler import current, partitioned_program


@pytest.fixture(autouse=True)
def program():
    with partitioned_program("kernel", __file__, (0,)):
        yield


@pytest.fixture
def bars() -> Memory:
    return allocate_shared_memory(tl.int64, [2, 1], MBARRIER.MBarrierLayout())


def passes(bar: Memory, parity: int) -> bool:
    return barrier_of(bar).ended(parity)


def test_a_fresh_barrier_lets_the_odd_phase_pass(bars):
    bar = bars.index(0)
    MBARRIER.init(bar, count=2)
    assert passes(bar, 1) and not passes(bar, 0)
    MBARRIER.wait(bar, 1)


def test_a_phase_ends_with_its_last_arrival_and_the_next_counts_anew(bars):
    bar = bars.index(1)
    MBARRIER.init(bar, count=2)
    for phase in range(4):
        MBARRIER.arrive(bar)
        assert passes(bar, 1 - phase % 2)
        MBARRIER.arrive(bar, count=1)
        assert passes(bar, phase % 2) and not passes(bar, 1 - phase % 2)
        MBARRIER.wait(bar, phase % 2)


def test_a_phase_waits_for_bytes_announced_before_and_after_they_come(bars):
    bar = bars.index(0)
    MBARRIER.init(bar, count=1)
    MBARRIER.expect(bar, 64)
    assert not passes(bar, 0)
    barrier_of(bar).complete(48, "a copy", {})
    assert not passes(bar, 0)
    barrier_of(bar).complete(16, "a copy", {})
    assert passes(bar, 0)
    barrier_of(bar).complete(32, "a copy", {})
    assert passes(bar, 0)
    MBARRIER.expect(bar, 32)
    assert passes(bar, 1)
    MBARRIER.wait(bar, 1)


def test_more_bytes_than_announced_are_an_error(bars):
    MBARRIER.init(bars.index(0), count=1)
    MBARRIER.expect(bars.index(0), 64)
    with pytest.raises(ProtocolError, match="16 bytes more than were announced"):
        barrier_of(bars.index(0)).complete(80, "a copy", {})
    barrier_of(bars.index(0)).copies.clear()


def test_more_arrivals_than_the_count_are_an_error(bars):
    MBARRIER.init(bars.index(0), count=2)
    with pytest.raises(ProtocolError, match="more often than its count of 2"):
        MBARRIER.arrive(bars.index(0), count=3)


def test_a_predicate_takes_back_an_operation(bars):
    bar = bars.index(0)
    MBARRIER.init(bar, count=1)
    MBARRIER.arrive(bar, pred=False)
    MBARRIER.expect(bar, 64, pred=False)
    MBARRIER.wait(bar, 0, pred=False)
    assert not passes(bar, 0)


def test_barriers_live_from_init_to_invalidate(bars):
    bar = bars.index(0)
    with pytest.raises(ProtocolError, match="not initialised"):
        MBARRIER.arrive(bar)
    MBARRIER.init(bar, count=1)
    with pytest.raises(ProtocolError, match="twice"):
        MBARRIER.init(bar, count=1)
    MBARRIER.invalidate(bar)
    with pytest.raises(ProtocolError, match="not initialised"):
        MBARRIER.wait(bar, 1)
    MBARRIER.init(bar, count=1)


def test_alone_and_with_nothing_in_flight_a_wait_is_a_deadlock(bars):
    MBARRIER.init(bars.index(0), count=1)
    with pytest.raises(
        ProtocolError, match=r"deadlock: kernel .* waits for phase 0 of the barrier \[0, 0\] allocated at .*1 of 1 arrivals"
    ):
        MBARRIER.wait(bars.index(0), 0)


def test_only_one_barrier_can_be_waited_for(bars):
    with pytest.raises(TypeError, match="not a barrier"):
        MBARRIER.wait(bars, 0)
    with pytest.raises(ProtocolError, match="index 2"):
        bars.index(2)


def test_an_arrival_hands_on_what_is_known_and_only_its_waiter_takes_it():
    barrier = Barrier("a barrier", count=1, arrivals=1)
    me = current().running
    before = me.clock[me]
    barrier.arrive(1)
    assert barrier.released[me] == before
    assert me.clock[me] == before + 1

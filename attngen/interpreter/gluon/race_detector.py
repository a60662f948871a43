"""Which accesses to shared memory are ordered by waits, whatever moment each happens at.

Every actor (a partition, its products, its stores, a barrier's copies) counts its accesses in epochs. A clock says up to which epoch of
each actor everything is known to be done; it goes along with an arrival at a barrier and comes out of a wait. Two accesses to the same
memory, of which one writes, must be ordered: whoever comes second has a clock that covers the first. One run of a program thus finds a
missing wait even where its own timing happened to do no harm.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

Clock = dict[Hashable, int]


class ProtocolError(Exception):
    """A kernel's partitions do not agree on who may touch what, and when."""


def join(clock: Clock, other: Clock) -> None:
    """Make a clock cover what the other covers as well."""
    for actor, epoch in other.items():
        if epoch > clock.get(actor, 0):
            clock[actor] = epoch


@dataclass(frozen=True, eq=False)
class Access:
    """That `actor` reads or writes memory in its `epoch`; `what` names it in messages."""

    data: np.ndarray
    writes: bool
    actor: Hashable
    epoch: int
    what: str

    def same_memory(self, other: Access) -> bool:
        return _region(self.data) == _region(other.data)


class Accesses:
    """All accesses of a program that a later one could have to wait for."""

    def __init__(self) -> None:
        self._known: list[Access] = []

    def add(self, access: Access, clock: Clock) -> None:
        """Record an access by someone whose clock that is.

        Raises:
            ProtocolError: it is not ordered after an earlier one, and one of them writes.
        """
        kept: list[Access] = []
        for earlier in self._known:
            conflict = (access.writes or earlier.writes) and overlap(access.data, earlier.data)
            if conflict and clock.get(earlier.actor, 0) < earlier.epoch:
                raise ProtocolError(f"{_does(access)} shared memory that {_does(earlier)}, and nothing waits for that in between")
            followed = access.writes or (access.actor == earlier.actor and not earlier.writes)
            if not (followed and access.same_memory(earlier)):
                kept.append(earlier)
        self._known = [*kept, access]


def _does(access: Access) -> str:
    return f"{access.what} {'writes' if access.writes else 'reads'}"


def _region(data: np.ndarray) -> tuple[int, int]:
    return data.__array_interface__["data"][0], data.nbytes


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two views have an element in common."""
    return np.may_share_memory(a, b) and np.shares_memory(a, b)

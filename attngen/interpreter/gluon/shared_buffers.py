"""Shared memory and barriers of a simulated Gluon program.

Memory is a view of an array that starts as ones in every bit, which is NaN in every floating type. A barrier follows the hardware's: a
phase ends when all arrivals of the count and all bytes that were announced have come, and the next begins with the count anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np

from attngen.interpreter.gluon.race_detector import Clock, ProtocolError, join
from attngen.interpreter.gluon.warp_scheduler import current
from attngen.interpreter.language import Handle
from attngen.interpreter.triton_api import gluon, hopper, tl
from attngen.interpreter.triton_api import interpreter as base


def plain(value: Any) -> Any:
    """The number or object behind a constant or a scalar tensor."""
    if isinstance(value, tl.constexpr):
        return value.value
    return value.handle.data.item() if isinstance(value, tl.tensor) else value


def extents(shape: Any) -> list[int]:
    """A shape as plain integers."""
    return [int(plain(extent)) for extent in plain(shape)]


def block(data: np.ndarray, dtype: Any) -> Any:
    """An array as a tensor of a kernel."""
    return tl.tensor(Handle(data, dtype), tl.block_type(dtype, list(data.shape)))


@dataclass(frozen=True, eq=False)
class Memory:
    """What `allocate_shared_memory` and the methods below give: part of an allocation, of numbers or of barriers."""

    data: np.ndarray
    dtype: Any
    layout: Any

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape)

    @property
    def rank(self) -> int:
        return self.data.ndim

    @property
    def numel(self) -> int:
        return self.data.size

    def index(self, index: Any) -> Memory:
        """The part at one position of the first axis."""
        position = plain(index)
        if not 0 <= position < self.data.shape[0]:
            raise ProtocolError(f"index {position} into shared memory of shape {self.shape}")
        return Memory(self.data[position, ...], self.dtype, self.layout)

    def slice(self, start: Any, length: Any, dim: Any = 0) -> Memory:
        start, length, dim = plain(start), plain(length), plain(dim)
        if not 0 <= start <= start + length <= self.data.shape[dim]:
            raise ProtocolError(f"positions {start} to {start + length} of axis {dim} of shared memory of shape {self.shape}")
        return Memory(self.data[(slice(None),) * dim + (slice(start, start + length),)], self.dtype, self.layout)

    def permute(self, order: Any) -> Memory:
        return Memory(self.data.transpose(extents(order)), self.dtype, self.layout)

    def reshape(self, shape: Any) -> Memory:
        if math.prod(extents(shape)) != self.numel or not self.data.flags.c_contiguous:
            raise ProtocolError(f"shared memory of shape {self.shape} cannot be taken as {extents(shape)}")
        return Memory(self.data.reshape(extents(shape)), self.dtype, self.layout)

    def load(self, layout: Any = None) -> Any:
        check_rank(layout, self.shape)
        current().step()
        current().touch(self.data, "the load", writes=False)
        return block(self.data.copy(), self.dtype)

    def store(self, value: Any) -> None:
        if not isinstance(value, tl.tensor) or extents(value.shape) != self.shape or value.dtype != self.dtype:
            raise TypeError(f"{value!r} stored to shared memory of shape {self.shape} and type {self.dtype}")
        program = current()
        program.step()
        program.touch(self.data, "the store", writes=True)
        self.data[...] = value.handle.data
        program.unfenced.append((program.running, self.data))


def fence_async_shared(cluster: Any = False) -> None:
    """Lets copies and products see what the running partition has stored."""
    program = current()
    program.step()
    program.unfenced[:] = [(partition, data) for partition, data in program.unfenced if partition is not program.running]


def check_rank(layout: Any, shape: Sequence[int]) -> None:
    """Refuse a layout for blocks of another rank."""
    layout = plain(layout)
    if not isinstance(layout, NoneType | gluon.AutoLayout | gluon.CoalescedLayout) and layout.rank != len(shape):
        raise ValueError(f"{layout} for a block of shape {list(shape)}")


@dataclass(eq=False)
class Barrier:
    """One mbarrier.

    Attributes:
        place: where it was allocated.
        count: arrivals that end a phase; None before `init` and after `invalidate`.
        arrivals: those that the current phase still needs.
        nbytes: announced and not yet copied.
        phase: how many phases have ended.
        copies: what was copied in each phase that nobody has waited for yet.
        gathered, released: what those who have come so far knew to be done, and those who had come when the last phase ended.
    """

    place: str
    count: int | None = None
    arrivals: int = 0
    nbytes: int = 0
    phase: int = 0
    copies: dict[int, str] = field(default_factory=dict)
    gathered: Clock = field(default_factory=dict)
    released: Clock = field(default_factory=dict)

    def arrive(self, count: int) -> None:
        self.check_live()
        if count > self.arrivals:
            raise ProtocolError(f"{self.place} is arrived at more often than its count of {self.count} in phase {self.phase}")
        self.arrivals -= count
        current().release(self.gathered)
        self._advance()

    def complete(self, nbytes: int, copy: str, clock: Clock) -> None:
        """Bytes have come, of a copy whose issuer had that clock."""
        self.check_live()
        join(self.gathered, clock)
        self.nbytes -= nbytes
        self.copies[self.phase] = copy
        self._advance()

    def not_waited_for(self) -> str:
        """A copy that has ended and that nobody has waited for, if there is one."""
        return next(iter(self.copies.values()), "")

    def ended(self, parity: int) -> bool:
        """Whether the phase of that parity has ended and its successor has not."""
        self.check_live()
        return self.phase & 1 != parity

    def _advance(self) -> None:
        if self.arrivals == 0 and self.nbytes < 0:
            surplus = f"{-self.nbytes} bytes more than were announced come to {self.place} in phase {self.phase}"
            raise ProtocolError(f"{surplus}, the last with {self.copies[self.phase]}")
        if self.arrivals == 0 and self.nbytes == 0:
            self.phase += 1
            self.arrivals = self.count or 0
            join(self.released, {**self.gathered, self: self.phase})

    def check_live(self) -> None:
        """Refuse a barrier that is not initialised, or no longer."""
        if self.count is None:
            raise ProtocolError(f"{self.place} is used and not initialised")


def allocate_shared_memory(element_ty: Any, shape: Any, layout: Any, value: Any = None) -> Memory:
    """New memory; with the layout of barriers, one barrier for each of its elements."""
    element_ty, layout = plain(element_ty), plain(layout)
    program = current()
    if isinstance(layout, hopper.mbarrier.MBarrierLayout):
        cells = np.empty(extents(shape), object)
        for index in np.ndindex(cells.shape):
            barrier = Barrier(f"the barrier {list(index)} allocated at {program.place()}")
            program.awaited.append(barrier.not_waited_for)
            cells[index] = barrier
        return Memory(cells, element_ty, layout)
    kind = base._get_np_dtype(element_ty)
    data = np.full(math.prod(extents(shape)) * kind.itemsize, 0xFF, np.uint8).view(kind).reshape(extents(shape))
    memory = Memory(data, element_ty, layout)
    if value is not None:
        memory.store(value)
    return memory


def barrier_of(memory: Any) -> Barrier:
    """The barrier that a one-element view of memory holds."""
    if not isinstance(memory, Memory) or memory.data.dtype != object or memory.numel != 1:
        raise TypeError(f"{memory!r} is not a barrier")
    return memory.data.item()


def _init(bar: Any, count: Any) -> None:
    current().step()
    barrier = barrier_of(bar)
    if barrier.count is not None:
        raise ProtocolError(f"{barrier.place} is initialised twice")
    barrier.count = barrier.arrivals = plain(count)
    barrier.phase = barrier.nbytes = 0


def _invalidate(bar: Any) -> None:
    current().step()
    barrier_of(bar).count = None


def _expect(bar: Any, bytes: Any, pred: Any = True) -> None:
    """One arrival that announces bytes."""
    current().step()
    if plain(pred):
        barrier = barrier_of(bar)
        barrier.nbytes += plain(bytes)
        barrier.arrive(1)


def _arrive(bar: Any, *, count: Any = 1, pred: Any = True) -> None:
    current().step()
    if plain(pred):
        barrier_of(bar).arrive(plain(count))


def _wait(bar: Any, phase: Any, pred: Any = True, deps: Any = ()) -> None:
    barrier, parity = barrier_of(bar), plain(phase)
    if parity not in (0, 1):
        raise ProtocolError(f"a wait for phase {parity}; phases are told apart by 0 and 1")
    if not plain(pred):
        return

    def waits_for(arguments: Mapping[str, Any]) -> str:
        missing = f"{barrier.arrivals} of {barrier.count} arrivals and {barrier.nbytes} bytes are missing"
        return f"phase {parity} of {_name(barrier, arguments)}, where {missing}"

    program = current()
    program.wait_until(lambda: barrier.ended(parity), waits_for)
    join(program.running.clock, barrier.released)
    for ended in [number for number in barrier.copies if number < barrier.phase]:
        del barrier.copies[ended]


def _name(barrier: Barrier, arguments: Mapping[str, Any]) -> str:
    """A barrier as the parameter that holds it, with its position."""
    for name, value in arguments.items():
        if isinstance(value, Memory) and value.data.dtype == object:
            for index in np.ndindex(value.data.shape):
                if value.data[index] is barrier:
                    return f"{name}{list(index[:1])}"
    return barrier.place


MBARRIER = SimpleNamespace(
    init=_init, invalidate=_invalidate, expect=_expect, arrive=_arrive, wait=_wait, MBarrierLayout=hopper.mbarrier.MBarrierLayout
)
"""Stands in for the module of barriers."""

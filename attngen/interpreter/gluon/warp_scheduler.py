"""One program of a kernel whose warps run different functions at once: who runs, what is in flight, and when nothing can go on.

Each partition of the warps is a thread, and exactly one runs at a time: it hands the turn over where it waits, and at random elsewhere.
Whatever the hardware does on its own (a copy, a product of tiles) is an `Operation` that takes effect at a random moment after it is
issued. All chance comes from one generator, so a seed gives one order of events. Partitions that wait with nothing in flight are a
deadlock; accesses to shared memory that no wait orders are an error (see `race_detector`), whatever the moments were.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attngen.interpreter.gluon.race_detector import Access, Accesses, Clock, ProtocolError, join, overlap

timing_seed = 0
"""Another seed gives other moments and turns; results of a kernel that is right do not depend on it."""

_HASTE = (0.0, 0.2, 1.0)
_SWITCHING = (0.05, 0.3, 0.9)
_WEIGHTS = (1, 10, 100)


class _Stopped(BaseException):
    """Ends a partition because another one has failed."""


@dataclass(eq=False)
class Operation:
    """Work that is issued now and takes effect later.

    Attributes:
        what: what it is and where it was issued, for messages.
        effect: reads its inputs and, if it has memory to write, writes it.
        haste: the chance that it takes effect at any one step; with 0 it does so only when something waits for it.
        actor, epoch: of its accesses to shared memory.
        waited: whether it ends by being waited for; else it ends when it takes effect.
    """

    what: str
    effect: Callable[[], None]
    haste: float
    actor: Hashable
    epoch: int
    waited: bool
    happened: bool = False


@dataclass(eq=False)
class Partition:
    """A function that some warps run.

    Attributes:
        name: of the function.
        arguments: what it was called with, by parameter; barriers are named after them.
        weight: its odds of running next.
        ready: says whether it can go on; None while it does not wait.
        waits_for: given `arguments`, what it waits for.
        products, stores: operations that it has issued and not waited for, oldest first.
        clock: what it knows to be done.
    """

    name: str
    arguments: Mapping[str, Any]
    weight: int
    ready: Callable[[], bool] | None = None
    waits_for: Callable[[Mapping[str, Any]], str] | None = None
    finished: bool = False
    result: Any = None
    products: list[Operation] = field(default_factory=list)
    stores: list[Operation] = field(default_factory=list)
    clock: Clock = field(default_factory=dict)
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Program:
    """One program of a launch, while it runs.

    Args:
        name: of the kernel.
        filename: where its text stands; places in messages are lines of it.
        seed: of everything that is left to chance.

    Attributes:
        running: the partition whose turn it is.
        operations: in flight, in the order of their issue.
        unfenced: shared memory with the partition that has stored to it and not fenced since.
        awaited: each gives, at the end of the program, what nobody has waited for, or nothing.
    """

    def __init__(self, name: str, filename: str, seed: str) -> None:
        self.random = random.Random(seed)
        self._name, self._filename = name, filename
        self.operations: list[Operation] = []
        self.unfenced: list[tuple[Partition, np.ndarray]] = []
        self.awaited: list[Callable[[], str]] = []
        self.running = Partition(name, {}, 1, thread=threading.current_thread())
        self.running.clock[self.running] = 1
        self._accesses = Accesses()
        self._epochs: Counter[Hashable] = Counter()
        self._partitions = [self.running]
        self._switching = self.random.choice(_SWITCHING)
        self._failure: BaseException | None = None

    # ---- turns

    def step(self) -> None:
        """A moment at which operations may take effect and another partition may run."""
        for operation in [item for item in self.operations if not item.happened]:
            if self.random.random() < operation.haste:
                self.happen(operation)
        if self._failure is not None:
            raise _Stopped
        if len(self._partitions) > 1 and self.random.random() < self._switching:
            self._hand_over()

    def wait_until(self, ready: Callable[[], bool], waits_for: Callable[[Mapping[str, Any]], str]) -> None:
        """Let others run until `ready()`.

        Raises:
            ProtocolError: nobody can ever make it so.
        """
        self.step()
        self.running.ready, self.running.waits_for = ready, waits_for
        if not ready():
            self._hand_over()
        self.running.ready = self.running.waits_for = None

    def run_partitions(self, bodies: Sequence[tuple[str, Mapping[str, Any], Callable[[], Any]]]) -> Any:
        """Run functions at once, given as (name, arguments by parameter, body), and wait for all of them. Gives what the first returns."""
        if len(self._partitions) > 1:
            raise ProtocolError("a partition cannot be split into partitions again")
        parent = self.running
        workers = [Partition(f"partition {i}, {body[0]}", body[1], self.random.choice(_WEIGHTS)) for i, body in enumerate(bodies)]
        self._partitions += workers
        for worker, (_, _, body) in zip(workers, bodies, strict=True):
            worker.clock = {**parent.clock, worker: 1}
            worker.thread = threading.Thread(target=self._run, args=(worker, body), daemon=True)
            worker.thread.start()
        parent.ready = lambda: all(worker.finished for worker in workers)
        try:
            self._hand_over()
        except _Stopped:
            pass
        except BaseException as error:
            self._stop(error)
        for worker in workers:
            if worker.thread is not None:
                worker.thread.join()
        if self._failure is not None:
            raise self._failure
        for worker in workers:
            join(parent.clock, worker.clock)
        parent.ready = None
        self._partitions = [parent]
        return workers[0].result

    def _run(self, partition: Partition, body: Callable[[], Any]) -> None:
        partition.turn.acquire()
        try:
            if self._failure is None:
                with np.errstate(all="ignore"):
                    partition.result = body()
                self.leave(partition)
                partition.finished = True
                following = self._choose()
                self.running = following
                following.turn.release()
        except _Stopped:
            pass
        except BaseException as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        for partition in self._partitions:
            partition.turn.release()

    def _hand_over(self) -> None:
        following, mine = self._choose(), self.running
        if following is not mine:
            self.running = following
            following.turn.release()
            mine.turn.acquire()
            if self._failure is not None:
                raise _Stopped

    def _choose(self) -> Partition:
        """Who runs next. If all wait, operations take effect one by one until somebody need not."""
        while True:
            able = [item for item in self._partitions if not item.finished and (item.ready is None or item.ready())]
            if able:
                return self.random.choices(able, [item.weight for item in able])[0]
            rest = [operation for operation in self.operations if not operation.happened]
            if not rest:
                raise ProtocolError("deadlock: " + "; ".join(self._stuck()))
            self.happen(self.random.choice(rest))

    def _stuck(self) -> Iterator[str]:
        frames = sys._current_frames()
        for partition in self._partitions:
            if not partition.finished and partition.waits_for is not None and partition.thread is not None:
                place = self.place(frames.get(partition.thread.ident or 0))
                yield f"{partition.name} ({place}) waits for {partition.waits_for(partition.arguments)}"

    # ---- operations

    def issue(
        self, what: str, effect: Callable[[], None], actor: Hashable, epoch: int = 0, *,
        reads: Sequence[np.ndarray] = (), writes: Sequence[np.ndarray] = (), waited: bool,
    ) -> Operation:  # fmt: skip
        """Put an operation in flight.

        Args:
            what: it is; the place is added.
            effect: what it does when it happens.
            actor, epoch: who touches the memory, and its number; without a number, that of the next operation of this actor.
            reads, writes: the shared memory that it takes from and gives to.
            waited: whether it ends by `finish`.

        Raises:
            ProtocolError: nothing orders it after what was done to that memory before.
        """
        self._epochs[actor] += 1
        what = f"{what} issued at {self.place()}"
        operation = Operation(what, effect, self.random.choice(_HASTE), actor, epoch or self._epochs[actor], waited)
        for data, is_written in [*((data, False) for data in reads), *((data, True) for data in writes)]:
            self._accesses.add(Access(data, is_written, actor, operation.epoch, what), self.running.clock)
        self.operations.append(operation)
        return operation

    def happen(self, operation: Operation) -> None:
        """Let an operation take effect now, if it has not."""
        if not operation.happened:
            operation.happened = True
            operation.effect()
            if not operation.waited:
                self.operations.remove(operation)

    def finish(self, operation: Operation) -> None:
        """End an operation that is waited for."""
        self.happen(operation)
        self.operations.remove(operation)
        self.running.clock[operation.actor] = operation.epoch

    def leave(self, partition: Partition) -> None:
        """Check that a partition which returns has waited for what it issued."""
        for operation in partition.products + partition.stores:
            raise ProtocolError(f"{partition.name} returns and never waits for {operation.what}")

    def close(self) -> None:
        """Check, where the program ends, that every operation was waited for."""
        self.leave(self.running)
        for operation in self.operations:
            raise ProtocolError(f"the program ends while {operation.what} is in flight")
        for forgotten in self.awaited:
            if forgotten():
                raise ProtocolError(f"the program ends and nobody has waited for {forgotten()}")

    # ---- shared memory

    def touch(self, data: np.ndarray, what: str, writes: bool) -> None:
        """The running partition itself reads or writes shared memory.

        Raises:
            ProtocolError: nothing orders that after what was done to it before.
        """
        me = self.running
        self._accesses.add(Access(data, writes, me, me.clock[me], f"{what} at {self.place()}"), me.clock)

    def release(self, clock: Clock) -> None:
        """Let whoever takes over that clock know all that the running partition has done so far."""
        me = self.running
        join(clock, me.clock)
        me.clock[me] += 1

    def check_fenced(self, data: np.ndarray) -> None:
        """Refuse to let copies and products read what plain stores wrote, until the writer has fenced it."""
        if any(overlap(data, other) for _, other in self.unfenced):
            raise ProtocolError("a copy or product reads shared memory that was stored to, without fence_async_shared in between")

    def place(self, frame: Any = None) -> str:
        """The functions of the kernel's text that are being run, innermost last, each with its line."""
        lines: list[str] = []
        frame = frame or sys._getframe(1)
        while frame is not None and not (lines and lines[0].startswith(f"{self._name}:")):
            if frame.f_code.co_filename == self._filename:
                lines.insert(0, f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return " > ".join(lines)


_programs: list[Program] = []


def current() -> Program:
    """The program that runs.

    Raises:
        ProtocolError: none does, or it is not of a Gluon kernel.
    """
    if not _programs:
        raise ProtocolError("only kernels and functions that a Gluon kernel calls may use Gluon")
    return _programs[-1]


@contextmanager
def partitioned_program(name: str, filename: str, index: tuple[int, ...]) -> Iterator[None]:
    """While the body runs, it is the program of that number of a kernel; partitions may be run and operations issued.

    Raises:
        ProtocolError: it ends with something in flight.
    """
    program = Program(name, filename, f"{timing_seed} {index}")
    _programs.append(program)
    try:
        yield
        program.close()
    finally:
        _programs.pop()

"""One program of a kernel whose warps run different functions at once: who runs, what is in flight, and when nothing can go on.

Each partition of the warps is a thread, and exactly one runs at a time: it hands the turn over where it waits, and at random elsewhere.
Whatever the hardware does on its own (a copy, a product of tiles) is an `Operation` that takes effect at a random moment after it is
issued. All chance comes from one generator, so a seed gives one order of events. Partitions that wait with nothing in flight are a
deadlock; memory written while an operation still reads or writes it, or read while one still writes it, is an error at once.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

timing_seed = 0
"""Another seed gives other moments and turns; results of a kernel that is right do not depend on it."""

_HASTE = (0.0, 0.2, 1.0)
_SWITCHING = (0.05, 0.3, 0.9)
_WEIGHTS = (1, 10, 100)


class ProtocolError(Exception):
    """A kernel's partitions do not agree on who may touch what, and when."""


class _Stopped(BaseException):
    """Ends a partition because another one has failed."""


@dataclass(eq=False)
class Operation:
    """Work that is issued now and takes effect later.

    Attributes:
        what: what it is and where it was issued, for messages.
        effect: reads its inputs and, if it has memory to write, writes it.
        haste: the chance that it takes effect at any one step; with 0 it does so only when something waits for it.
        reads, writes: the shared memory that it takes from and gives to.
        waited: whether it ends by being waited for; else it ends when it takes effect.
    """

    what: str
    effect: Callable[[], None]
    haste: float
    reads: Sequence[np.ndarray] = ()
    writes: Sequence[np.ndarray] = ()
    waited: bool = False
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
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Program:
    """One program of a launch, while it runs.

    Args:
        name: of the kernel.
        filename: where its text stands; places in messages are lines of it.
        seed: of everything that is left to chance.
    """

    def __init__(self, name: str, filename: str, seed: str) -> None:
        self.random = random.Random(seed)
        self.filename = filename
        self.operations: list[Operation] = []
        self.unfenced: list[tuple[Partition, np.ndarray]] = []
        self.awaited: list[Callable[[], str]] = []
        self.running = Partition(name, {}, 1)
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
        self.running.ready = None

    def run_partitions(self, bodies: Sequence[tuple[str, Mapping[str, Any], Callable[[], Any]]]) -> Any:
        """Run functions at once, given as (name, arguments by parameter, body), and wait for all of them. Gives what the first returns."""
        if len(self._partitions) > 1:
            raise ProtocolError("a partition cannot be split into partitions again")
        parent = self.running
        workers = [Partition(name, arguments, self.random.choice(_WEIGHTS)) for name, arguments, _ in bodies]
        self._partitions += workers
        for worker, (_, _, body) in zip(workers, bodies, strict=True):
            worker.thread = threading.Thread(target=self._run, args=(worker, body), daemon=True)
            worker.thread.start()
        parent.ready = lambda: all(worker.finished for worker in workers)
        parent.waits_for = lambda _: "the end of its partitions"
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
        for partition in self._partitions[min(1, len(self._partitions) - 1) :]:
            if not partition.finished and partition.waits_for is not None:
                thread = threading.current_thread() if partition is self.running or partition.thread is None else partition.thread
                yield f"{partition.name} ({self.place(frames.get(thread.ident or 0))}) waits for {partition.waits_for(partition.arguments)}"

    # ---- operations

    def haste(self) -> float:
        """How soon the next operation takes effect."""
        return self.random.choice(_HASTE)

    def issue(self, operation: Operation) -> Operation:
        """Put an operation in flight.

        Raises:
            ProtocolError: another one in flight works on the same memory.
        """
        for data in operation.reads:
            self.check_read(data)
        for data in operation.writes:
            self.check_write(data)
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

    def check_read(self, data: np.ndarray) -> None:
        """Refuse to read memory that an operation in flight writes."""
        for operation in self.operations:
            if any(_overlap(data, other) for other in operation.writes):
                raise ProtocolError(f"shared memory is read while {operation.what} still fills it")

    def check_write(self, data: np.ndarray) -> None:
        """Refuse to write memory that an operation in flight reads or writes."""
        self.check_read(data)
        for operation in self.operations:
            if any(_overlap(data, other) for other in operation.reads):
                raise ProtocolError(f"shared memory is written while {operation.what} still reads it")

    def check_fenced(self, data: np.ndarray) -> None:
        """Refuse to let copies and products read what plain stores wrote, until the writer has fenced it."""
        if any(_overlap(data, other) for _, other in self.unfenced):
            raise ProtocolError("shared memory that was stored to is read by an asynchronous operation without fence_async_shared before it")

    def place(self, frame: Any = None) -> str:
        """The functions of the kernel's text that are being run, innermost last, each with its line."""
        lines: list[str] = []
        frame = frame or sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.filename:
                lines.insert(0, f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return " > ".join(lines)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


_programs: list[Program] = []


def current() -> Program:
    """The program that runs."""
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

"""Machines and contenders of our own, for the benchmark that needs a GPU."""

from __future__ import annotations

import ctypes

import torch

import attngen
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.contenders import Built, Contender, NotImportable
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.problems import Problem
from benchmarks.gpu.run import Run
from benchmarks.gpu.workloads import Workload

CPU = torch.device("cpu")
SMALL = Workload("causal", dims=(16, 16), q_len=48, kv_len=48, batch=2, heads=(4, 2))


def milliseconds(run) -> float:
    run()
    return 2.0


def peak(run) -> int:
    run()
    return 10**6


MACHINE = Machine("a CPU", CPU, milliseconds, milliseconds, peak, lambda: None, lambda: True)


class Clock:
    """Seconds that pass when it is told."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Stuck:
    """A call that no signal ends, as one that waits for a kernel that hangs: a lock that is taken twice. Other threads go on."""

    def __init__(self) -> None:
        self._c, self._lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)

    def __call__(self) -> None:
        self._c.pthread_mutex_lock(self._lock)
        self._c.pthread_mutex_lock(self._lock)

    def release(self) -> None:
        """From another thread."""
        self._c.pthread_mutex_unlock(self._lock)


def exact(problem: Problem) -> Built:
    """The formula itself, rounded as kernels round."""
    attend = attngen.compile(problem.spec())
    return Built(lambda: attend.reference(*problem.arguments()).to(torch.bfloat16), 0.003)


def nowhere(problem: Problem) -> Built:
    """Forgets to write the last row."""
    call = exact(problem).call

    def forgetful() -> torch.Tensor:
        out = call()
        mask = torch.ones_like(out)
        mask[:, :, -1] = float("nan")
        return out * mask

    return Built(forgetful)


def refusing(problem: Problem) -> Built:
    raise RuntimeError("no kernel for this\nand a long explanation")


def absent(problem: Problem) -> Built:
    raise NotImportable("its package cannot be imported")


def run_of(budget: Budget | None = None, **contenders) -> Run:
    known = {name: Contender(name, build, 5.0) for name, build in contenders.items()}
    return Run(MACHINE, budget or Budget.of(1000.0), 100.0, 50.0, contenders=known)

"""Which programs of interpreted kernels run, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from attngen.interpreter.interpreter import InterpretedKernel
from attngen.interpreter.language import BUILDER


def only_programs(module: ModuleType, chosen: tuple[int, ...]) -> None:
    """From now on run these programs of every grid only."""
    for kernel in vars(module).values():
        if isinstance(kernel, InterpretedKernel):
            vars(kernel)["_run_program"] = _filtered(kernel, chosen)


@contextmanager
def last_programs_first(module: ModuleType) -> Iterator[None]:
    """Run the programs of every grid in the opposite order."""
    changed = [kernel for kernel in vars(module).values() if isinstance(kernel, InterpretedKernel)]
    for kernel in changed:
        vars(kernel)["_run_program"] = _mirrored(kernel)
    yield
    for kernel in changed:
        del vars(kernel)["_run_program"]


def _mirrored(kernel: InterpretedKernel) -> Callable[..., None]:
    run_program = kernel._run_program

    def run_other(arguments: dict[str, Any], program: tuple[int, int, int]) -> None:
        other = tuple(extent - 1 - at for extent, at in zip(BUILDER.grid_dim, program, strict=True))
        BUILDER.set_grid_idx(*other)
        run_program(arguments, other)

    return run_other


def _filtered(kernel: InterpretedKernel, chosen: tuple[int, ...]) -> Callable[..., None]:
    run_program = kernel._run_program

    def run_chosen(arguments: dict[str, Any], program: tuple[int, int, int]) -> None:
        if program[0] in chosen:
            run_program(arguments, program)

    return run_chosen

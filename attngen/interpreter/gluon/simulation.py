"""What the interpreter needs to know of Gluon: what its names stand for, and what a program of a Gluon kernel runs in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attngen.errors import InternalError
from attngen.interpreter.gluon.warp_scheduler import partitioned_program
from attngen.interpreter.language import equal_ranks
from attngen.interpreter.triton_api import JITFunction, triton


def is_gluon(value: Any) -> bool:
    """Whether a value is a `@gluon.jit` function."""
    return isinstance(value, JITFunction) and bool(value.is_gluon())


def stand_ins(names: Mapping[str, Any]) -> dict[str, Any]:
    """What simulates those names of a module that are parts of Gluon; none in a module without Gluon functions.

    Raises:
        InternalError: the installed Triton's Gluon has other parts than this package expects.
    """
    if not any(is_gluon(value) for value in names.values()):
        return {}
    try:
        # Imported here: Triton may come without Gluon, which plain modules do not miss.
        from attngen.interpreter.gluon.gluon_language import simulated

        return simulated(names)
    except AttributeError as error:
        raise InternalError(f"the Gluon of Triton {triton.__version__} has moved: {error!r}") from error


@contextmanager
def simulated_program(function: Any, program: tuple[int, int, int]) -> Iterator[None]:
    """While the body runs, it is one program of a kernel, whose warps may run different functions if it is a Gluon kernel.

    Args:
        function: the `JITFunction`. program: its place in the grid.
    """
    if not is_gluon(function):
        yield
        return
    with equal_ranks(), partitioned_program(function.fn.__name__, function.fn.__code__.co_filename, program):
        yield

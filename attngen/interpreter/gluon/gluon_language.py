"""Gluon's language as the interpreter runs it: what the names of an emitted module stand for while its kernels are simulated.

The simulation shows two things of a kernel whose warps run different functions. Its numbers: blocks, loads and products mean what they
mean in the interpreter of Triton's own language, and shared memory that nobody has written is NaN. And its protocol: with another
`warp_scheduler.timing_seed`, copies land and products read their operands earlier or later, and partitions overtake one another; a kernel
whose barriers are right gives the same bits for every seed. These are errors, with the functions and lines at fault:

* a deadlock, with what each partition waits for;
* two accesses to the same shared memory, one of them a write, that no barrier and no wait orders: a slot read before its copy has ended,
  or filled again before its readers have; found whenever both happen, whichever comes first and whether or not it did harm;
* arrivals beyond a barrier's count, bytes beyond those it was told of, barriers not initialised, or initialised twice;
* a product's result used before its wait, and products, stores and copies that nobody ever waits for;
* memory stored to by threads and read by a copy or product without a fence between;
* blocks of unequal rank combined, layouts of another rank than their block, operands whose shapes do not fit.

Not simulated: layouts, but for their rank and that a descriptor and its memory have the same one (whether blocks that meet have one layout
is not checked); registers, bank conflicts and the capacity of shared memory; the order of accesses to global memory; speed. Whether a
kernel is legal for its target and how fast it is are for the compiler and the device to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from attngen.interpreter.gluon.async_operations import TMA, warpgroup_mma, warpgroup_mma_wait
from attngen.interpreter.gluon.shared_buffers import MBARRIER, allocate_shared_memory, check_rank, extents, fence_async_shared, plain
from attngen.interpreter.gluon.warp_scheduler import current
from attngen.interpreter.triton_api import gluon, hopper, tl


class _Language:
    """Stands in for `triton.experimental.gluon.language`: what is below, what `tl` has under that name, and layouts."""

    allocate_shared_memory = staticmethod(allocate_shared_memory)

    def __init__(self, language: ModuleType) -> None:
        self._language = language

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._language, name)
        if hasattr(tl, name):
            return getattr(tl, name)
        if callable(original) and not isinstance(original, type):
            raise AttributeError(f"gl.{name} is not simulated")
        return original

    @staticmethod
    def arange(start: Any, end: Any, layout: Any = None) -> Any:
        found = tl.arange(plain(start), plain(end))
        check_rank(layout, found.shape)
        return found

    @staticmethod
    def full(shape: Any, value: Any, dtype: Any, layout: Any = None) -> Any:
        check_rank(layout, extents(shape))
        return tl.full(extents(shape), value, dtype)

    @staticmethod
    def zeros(shape: Any, dtype: Any, layout: Any = None) -> Any:
        return _Language.full(shape, 0, dtype, layout)

    @staticmethod
    def full_like(input: Any, value: Any, shape: Any = None, dtype: Any = None, layout: Any = None) -> Any:
        return _Language.full(input.shape if shape is None else shape, value, input.dtype if dtype is None else dtype, layout)

    @staticmethod
    def zeros_like(input: Any, shape: Any = None, dtype: Any = None, layout: Any = None) -> Any:
        return _Language.full_like(input, 0, shape, dtype, layout)

    @staticmethod
    def convert_layout(value: Any, layout: Any, assert_trivial: Any = False) -> Any:
        current().step()
        check_rank(layout, extents(value.shape))
        return value

    @staticmethod
    def set_auto_layout(value: Any, layout: Any) -> Any:
        return _Language.convert_layout(value, layout)

    @staticmethod
    def thread_barrier() -> None:
        current().step()

    @staticmethod
    def warp_specialize(functions_and_args: Sequence[Any], worker_num_warps: Any, worker_num_regs: Any) -> Any:
        """Run the functions at once; gives what the first returns."""
        workers = len(functions_and_args) - 1
        if not workers == len(worker_num_warps) == len(worker_num_regs):
            raise ValueError(f"{workers} partitions besides the first, warps {worker_num_warps} and registers {worker_num_regs}")
        bodies = [
            (function.__name__, dict(zip(function.arg_names, args, strict=False)), lambda function=function, args=args: function(*args))
            for function, args in functions_and_args
        ]
        return current().run_partitions(bodies)


def simulated(names: Mapping[str, Any]) -> dict[str, Any]:
    """Those names of a module that stand for a part of Gluon, with what simulates it."""
    twins: dict[int, Any] = {
        id(gluon): _Language(gluon),
        id(hopper.mbarrier): MBARRIER,
        id(hopper.tma): TMA,
        id(hopper.fence_async_shared): fence_async_shared,
        id(hopper.warpgroup_mma): warpgroup_mma,
        id(hopper.warpgroup_mma_wait): warpgroup_mma_wait,
    }
    return {name: twins[id(value)] for name, value in names.items() if id(value) in twins}

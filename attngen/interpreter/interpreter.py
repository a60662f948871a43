"""Run an emitted module in Triton's interpreter, in a process in which other copies of it are compiled.

Takes a module that holds `@triton.jit` functions and host functions that launch them; gives a second module, executed from the same text,
whose launches run on the CPU. The text is not changed and no environment variable is set: compiled and interpreted copies alternate.
`@gluon.jit` functions may stand among them; what is simulated of them is said in `gluon.gluon_language`. One lock serialises all launches.
Tensors must live on the CPU. The interpreter is slow and checks meaning only: whether a kernel is legal for a target and fits it is for
`inspect` to say.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np

from attngen.cache.load import copied
from attngen.errors import AttngenError, DeviceMismatch, InternalError
from attngen.interpreter.gluon.simulation import simulated_program, stand_ins
from attngen.interpreter.language import BUILDER, assign, interpreted_language, loop, truth
from attngen.interpreter.rewrite import rewrite
from attngen.interpreter.triton_api import JITFunction, tl, triton
from attngen.interpreter.triton_api import interpreter as base

_LAUNCH_OPTIONS = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion", "waves_per_eu", "matrix_instr_nonkdim"})


def interpreted(module: ModuleType) -> ModuleType:
    """A copy of `module` in which every kernel is interpreted.

    Args:
        module: an emitted module, importable from a file (or present in `linecache`).

    Returns:
        A module of the same name, not entered in `sys.modules`. Its host functions take CPU tensors; a Python float reaches a kernel as
        fp64 if any pointer of the launch is fp64, else as fp32, unless the parameter is annotated with a type.

    Raises:
        InternalError: the installed Triton's interpreter does not behave as this module expects.
    """
    self_check()
    return _copy(module)


@cache
def self_check() -> None:
    """Run a small kernel once per process and compare its result.

    Raises:
        InternalError: naming the version of Triton, if the private parts that the interpreter leans on have moved.
    """
    from attngen.interpreter import self_check as probe

    try:
        right = _copy(probe).run()
    except Exception as error:
        raise InternalError(f"the interpreter of Triton {triton.__version__} cannot run a small kernel: {error!r}") from error
    if not right:
        raise InternalError(f"the interpreter of Triton {triton.__version__} computes a small kernel wrongly")


def _copy(module: ModuleType) -> ModuleType:
    copy = copied(module)
    vars(copy).update(stand_ins(vars(copy)))
    for name, value in list(vars(copy).items()):
        if isinstance(value, JITFunction):
            setattr(copy, name, InterpretedKernel(value))
    return copy


class InterpretedKernel:
    """Stands in for a `JITFunction`: launched with `kernel[grid](...)` by a host function, or called by another kernel."""

    def __init__(self, jit_function: Any) -> None:
        self.fn = jit_function.fn
        self.arg_names = tuple(jit_function.arg_names)
        self.__name__ = self.fn.__name__
        self.__doc__ = self.fn.__doc__
        self._jit_function = jit_function

    @cached_property
    def _body(self) -> Callable[..., Any]:
        return rewrite(self._jit_function, assign, truth, loop)

    @cached_property
    def _constexprs(self) -> frozenset[str]:
        return frozenset(p.name for p in self._jit_function.params if p.is_constexpr)

    @cached_property
    def _annotations(self) -> dict[str, str]:
        return {p.name: p.annotation_type for p in self._jit_function.params if p.annotation_type}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A call from inside a kernel."""
        return self._body(*args, **kwargs)

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            self._launch(grid, args, kwargs)

        return launch

    def _launch(self, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        options = _LAUNCH_OPTIONS.difference(self.arg_names)
        bound = self._jit_function.signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in options})
        bound.apply_defaults()
        values = {name: value.value if isinstance(value, tl.constexpr) else value for name, value in bound.arguments.items()}
        shape: Any = grid(dict(values)) if callable(grid) else grid
        extents = (*shape, 1, 1)[:3] if isinstance(shape, tuple) else (shape, 1, 1)
        with interpreted_language(InterpretedKernel):
            arguments = self._convert(values)
            BUILDER.set_grid_dim(*extents)
            for x in range(extents[0]):
                for y in range(extents[1]):
                    for z in range(extents[2]):
                        BUILDER.set_grid_idx(x, y, z)
                        self._run_program(arguments, (x, y, z))

    def _run_program(self, arguments: dict[str, Any], program: tuple[int, int, int]) -> None:
        try:
            with simulated_program(self._jit_function, program):
                self._body(**arguments)
        except AttngenError:
            raise
        except Exception as error:
            place = _innermost_line(error, self.fn.__code__.co_filename)
            raise InternalError(f"kernel {self.__name__} failed in the interpreter, program {program}, {place}: {error!r}") from error

    def _convert(self, values: dict[str, Any]) -> dict[str, Any]:
        runtime = {name: value for name, value in values.items() if name not in self._constexprs}
        any_double = any(str(getattr(value, "dtype", "")) == "torch.float64" for value in runtime.values())
        converted = dict(values)
        for name, value in runtime.items():
            annotation = self._annotations.get(name) or ("fp64" if any_double and isinstance(value, float) else "")
            converted[name] = _argument(name, value, annotation)
        return converted


def call(function: Any, values: Sequence[Any], *constants: int) -> tuple[Any, ...]:
    """Call an interpreted function of numbers outside of a kernel, for many arguments at once.

    Args:
        function: of a module that `interpreted` gave.
        values: numbers, and one-dimensional integer arrays of one length, which are computed with element by element.
        constants: its compile-time arguments, which follow.

    Returns:
        What it returns, as arrays or numbers.
    """
    length = max((len(value) for value in values if np.ndim(value)), default=1)
    with interpreted_language(InterpretedKernel):
        found = function(*(_as_tensor(value) for value in values), *constants)
    return tuple(item.handle.data[:length] if isinstance(item, tl.tensor) else item for item in found)


_KINDS: dict[str, Any] = {"f": (np.float64, tl.float64), "b": (np.bool_, tl.int1), "i": (np.int64, tl.int64), "u": (np.int64, tl.int64)}
"""What numbers outside of a kernel are computed with, by the kind of their dtype."""


def _as_tensor(value: Any) -> Any:
    """A number, or an array repeated to the next power of two, which is what blocks are long."""
    own, kind = _KINDS[np.asarray(value).dtype.kind]
    data = np.atleast_1d(np.asarray(value, own))
    if np.ndim(value) == 0:
        return tl.tensor(base.TensorHandle(data, kind), kind)
    data = np.resize(data, triton.next_power_of_2(len(data)))
    return tl.tensor(base.TensorHandle(data, kind), tl.block_type(kind, list(data.shape)))


def _argument(name: str, value: Any, type_name: str) -> Any:
    """A kernel argument as the interpreter's tensor: scalars typed as a launch would type them, tensors as pointers."""
    if isinstance(value, bool | int | float):
        return _scalar(value, type_name or _scalar_type(value))
    if isinstance(value, tuple):
        items = [_argument(name, item, "") for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    device = getattr(getattr(value, "base", value), "device", None)
    if device is not None and device.type != "cpu":
        raise DeviceMismatch(f"{name} lives on {device}, and the interpreter reads CPU memory only", remedy=f"Pass {name}.cpu().")
    return base._implicit_cvt(value)


def _scalar_type(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, float):
        return "fp32"
    if -(2**31) <= value < 2**31:
        return "i32"
    return "i64" if value < 2**63 else "u64"


def _scalar(value: bool | int | float, type_name: str) -> Any:
    dtype: Any = tl.str_to_ty(type_name, None)
    handle = BUILDER.get_bf16(value) if dtype == tl.bfloat16 else base.TensorHandle(np.array([value], base._get_np_dtype(dtype)), dtype)
    return tl.tensor(handle, dtype)


def _innermost_line(error: Exception, filename: str) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{filename}:{frames[-1].lineno}" if frames else filename

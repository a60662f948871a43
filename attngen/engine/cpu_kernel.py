"""Kernels of an emitted module that run on the CPU: each launch runs the tile program of the kernel, printed as PyTorch.

The host functions of the module stay as they are, so allocation, chunks and what gradients still need are those of a GPU call. Blocks,
warps and stages say nothing here. Kernels that list tiles do nothing: the engine finds tiles by itself.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attngen.cache.load import source_of
from attngen.emit.identifiers import tensor_name
from attngen.emit.kernel_text import Lowered
from attngen.emit.params import Param
from attngen.engine import library
from attngen.engine.torch_printer import print_torch, signature
from attngen.errors import DeviceMismatch
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir.expr import Index
from attngen.kernel.kernel import Kernel
from attngen.stages.program import Source
from attngen.tile.lowering import lower
from attngen.tile.nodes import Load, TileProgram
from attngen.tile.program_verify import verify

_NAMESPACE = {**{name: value for name, value in vars(library).items() if not name.startswith("__")}, "block_of": library.block}


def on_cpu(module: ModuleType, source: Source) -> ModuleType:
    """A copy of an emitted module whose kernels run on the CPU.

    Args:
        module: importable from a file, or present in `linecache`.
        source: that it was loaded from.
    """
    copy = ModuleType(module.__name__, module.__doc__)
    copy.__file__, copy.__package__ = module.__file__, module.__package__
    exec(compile(source_of(module), module.__file__ or module.__name__, "exec"), vars(copy))
    facts = {item.kernel: item for item in source.program.facts}
    for kernel, lowered in source.lowered:
        setattr(copy, lowered.context.name, _kernel(kernel, lowered, facts.get(kernel)))
    return copy


def _kernel(kernel: Kernel, lowered: Lowered, facts: KernelFacts | None) -> Launchable:
    return Launchable(lowered.params, None if kernel.tile_list_of or facts is None else verify(lower(facts)))


@dataclass(frozen=True, slots=True)
class Launchable:
    """Stands where a Triton kernel stood: `kernel[grid](*args, **constants, **tile)`."""

    params: tuple[Param, ...]
    program: TileProgram | None

    def __getitem__(self, grid: object) -> Callable[..., None]:
        del grid
        return self.launch

    def launch(self, *args: Any, **options: Any) -> None:
        """Run the program with the arguments of a launch."""
        if self.program is None:
            return
        given: dict[str, Any] = {}
        for param, value in zip(self.params, args, strict=True):
            _check(param, value)
            if param.is_pointer or param.kind in ("number", "bound", "length"):
                given[param.tensor or str(param.name)] = value
        run_program(self.program, given, options["DTYPE"], options["ACC"])


def run_program(program: TileProgram, given: Mapping[str, Any], storage: Any, accumulator: Any) -> None:
    """Run a tile program.

    Args:
        program: as lowered.
        given: tensors and numbers by the names that emitted code has for them, `chunk_begin` and `chunk_end` if it runs on a chunk of rows.
        storage, accumulator: Triton's types of the arguments and of statistics.
    """
    dtype, narrow = getattr(torch, _torch_name(accumulator)), getattr(torch, _torch_name(storage))
    run, names, axes = _compiled(program, narrow.itemsize < 4)
    values = {name: given[tensor_name(name) if name in axes.params else name] for name in names}
    lengths = {axis: _length(axis, program, given, values) for axis in axes.lengths}
    begin, end = given.get("chunk_begin", 0), given.get("chunk_end", lengths[program.parallel])
    with torch.no_grad():
        run(dtype, narrow, *values.values(), *lengths.values(), begin, end, begin)


@dataclass(frozen=True, slots=True)
class _Axes:
    params: frozenset[str]
    lengths: tuple[str, ...]


@lru_cache(maxsize=512)
def _compiled(program: TileProgram, half: bool) -> tuple[Callable[..., None], tuple[str, ...], _Axes]:
    text = print_torch(program, half)
    names, lengths = signature(program)
    path = f"<attngen cpu {program.role} {abs(hash(text)):x}>"
    linecache.cache[path] = len(text), None, text.splitlines(keepends=True), path
    space = dict(_NAMESPACE)
    exec(compile(text, path, "exec"), space)
    return space["run"], names, _Axes(frozenset(item.name for item in program.params), lengths)


def _length(axis: str, program: TileProgram, given: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """The length of an axis: told, or that of a dimension of a tensor."""
    if f"len_{axis}" in given:
        return given[f"len_{axis}"]
    for item in program.params:
        if item.axes is not None and axis in item.axes:
            tensor = given.get(tensor_name(item.name))
            if tensor is not None:
                return tensor.shape[item.axes.index(axis)]
    for item in program.statements:
        if isinstance(item, Load) and Index(axis) in item.at and item.tensor in values:
            return values[item.tensor].shape[item.at.index(Index(axis))]
    raise KeyError(axis)


def _torch_name(type_: Any) -> str:
    return {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}[str(type_)]


def _check(param: Param, value: Any) -> None:
    if isinstance(value, Tensor) and value.device.type != "cpu":
        raise DeviceMismatch(
            f"{param.tensor} lives on {value.device}, and the CPU engine reads CPU memory only", remedy=f"Pass {param.tensor}.cpu()."
        )

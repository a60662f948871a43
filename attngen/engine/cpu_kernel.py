"""Kernels of an emitted module that run on the CPU: each launch runs the tile program of the kernel, printed as PyTorch.

The host functions of the module stay as they are, so allocation, chunks and what gradients still need are those of a GPU call. Blocks,
warps and stages say nothing here. Kernels that list tiles do nothing: the engine finds tiles by itself.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attngen.cache.load import copied
from attngen.emit.identifiers import tensor_name
from attngen.emit.kernel_text import Lowered
from attngen.emit.params import Param
from attngen.engine import library
from attngen.engine.torch_printer import print_torch
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
    copy = copied(module)
    facts = {item.kernel: item for item in source.program.facts}
    for kernel, lowered in source.lowered:
        setattr(copy, lowered.context.name, _kernel(kernel, lowered, facts.get(kernel)))
    return copy


def _kernel(kernel: Kernel, lowered: Lowered, facts: KernelFacts | None) -> Launchable:
    return Launchable(lowered.params, None if kernel.tile_list_of or facts is None else verify(lower(facts)))


@dataclass(frozen=True)
class Launchable:
    """Stands where a Triton kernel stood: `kernel[grid](*args, **constants, **tile)`. `program` is None where there is nothing to do."""

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
            if param.kind in ("stride", "size"):
                continue
            if isinstance(value, Tensor) and value.device.type != "cpu":
                rule = f"{param.tensor} lives on {value.device}, and the CPU engine reads CPU memory only"
                raise DeviceMismatch(rule, remedy=f"Pass {param.tensor}.cpu().")
            given[param.tensor or str(param.name)] = value
        storage, accumulator = (getattr(torch, _TORCH[str(options[name])]) for name in ("DTYPE", "ACC"))
        (self.half if storage.itemsize < 4 else self.whole)(given, storage, accumulator)

    @cached_property
    def whole(self) -> _Run:
        """The program for arguments of full precision."""
        assert self.program is not None
        return _Run(self.program, half=False)

    @cached_property
    def half(self) -> _Run:
        """The program for arguments of half precision."""
        assert self.program is not None
        return _Run(self.program, half=True)


class _Run:
    """A printed program, and where its arguments are found among those of a launch."""

    def __init__(self, program: TileProgram, *, half: bool) -> None:
        printed = print_torch(program, half)
        text, self.axes = printed.text, printed.axes
        path = f"<attngen cpu {program.role} {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
        linecache.cache[path] = len(text), None, text.splitlines(keepends=True), path
        space = dict(_NAMESPACE)
        exec(compile(text, path, "exec"), space)
        self.function: Callable[..., None] = space["run"]
        mine = {item.name for item in program.params}
        self.names = tuple(str(tensor_name(name)) if name in mine else name for name in printed.tensors)
        self.parallel = program.parallel
        self.origins = {axis: tuple(_origins(axis, program)) for axis in self.axes}

    def __call__(self, given: Mapping[str, Any], storage: torch.dtype, accumulator: torch.dtype) -> None:
        """Run it.

        Args:
            given: tensors, numbers and lengths by the names that emitted code has for them; `chunk_begin` and `chunk_end` for some rows.
            storage, accumulator: the types of arguments and of statistics.
        """
        lengths = {axis: self.length(axis, given) for axis in self.axes}
        begin, end = given.get("chunk_begin", 0), given.get("chunk_end", lengths[self.parallel])
        with torch.no_grad():
            self.function(accumulator, storage, *(given[name] for name in self.names), *lengths.values(), begin, end, begin)

    def length(self, axis: str, given: Mapping[str, Any]) -> int:
        """The length of an axis: told, or that of a dimension of a tensor."""
        told = given.get(f"len_{axis}")
        if told is not None:
            return told
        name, dim = next((name, dim) for name, dim in self.origins[axis] if name in given)
        return given[name].shape[dim]


def _origins(axis: str, program: TileProgram) -> Iterator[tuple[str, int]]:
    """Tensors with an axis, by the names that emitted code has for them, and the dimension."""
    for item in program.params:
        if item.axes is not None and axis in item.axes:
            yield str(tensor_name(item.name)), item.axes.index(axis)
    for item in program.statements:
        if isinstance(item, Load) and Index(axis) in item.at:
            yield str(tensor_name(item.tensor)), item.at.index(Index(axis))


_TORCH = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
"""Names of torch for Triton's types."""

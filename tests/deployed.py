"""Folders of kernels as their users import them, in the interpreter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attngen.calls import arguments as binding
from attngen.frontend.spec import Spec
from attngen.interpreter.interpreter import interpreted
from attngen.interpreter.torch_reference import reference
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import ModuleSchedule


def not_compiled(kernels: Kernels, request: Request, *_: object) -> tuple[ModuleSchedule, tuple[()]]:
    """In place of `compile_settled`: the schedule that calls run with, and no resources."""
    return kernels.settled(request), ()


def imported(folder: Path, label: str) -> ModuleType:
    """The package in a folder, with its kernels interpreted."""
    name = f"deployed_{label}_{folder.name}"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    vars(package).update({label: interpreted(module) for label, module in vars(package).items() if label.startswith("kernels")})
    if hasattr(package, "MODULES"):
        # Kernels for bfloat16 are exact at any precision, apart from its roundings.
        own = {key: vars(package)[module.__name__.rpartition(".")[2]] for key, module in package.MODULES.items()}
        wide = {(dtype, *lengths): module for (_, *lengths), module in own.items() for dtype in ("float32", "float64")}
        vars(package)["MODULES"] = wide | own
    return package


def small_tiles(package: ModuleType, block: int = 32) -> dict[str, dict[str, int]]:
    """The tiles of the first row of the table, with blocks that the interpreter likes."""
    row: dict[str, dict[str, int]] = next(iter(package.TILES.values()))
    return {role: {name: block if name.startswith("BLOCK") else value for name, value in tile.items()} for role, tile in row.items()}


def expected(
    spec: Spec, tensors: Mapping[str, Tensor], captures: Mapping[str, Any], cotangents: list[Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs in return order and gradients by name, in float64.

    Args:
        tensors: arguments; captures: values of the captured inputs.
        cotangents: of the outputs, in return order.
    """
    given = {**tensors, **captures}
    floating = [name for name, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()]
    leaves = {name: given[name].detach().double().requires_grad_() for name in floating}
    views, _ = binding.split(spec, [leaves[argument.name] for argument in spec.arguments])
    values = dict(zip((argument.name for argument in spec.arguments), views, strict=True))
    steps = reference(spec.cascade, {**values, **{name: leaves.get(name, value) for name, value in captures.items()}})
    outputs = [binding.join(steps[output.name], output.pattern) for output in spec.outputs]
    total = sum((value * cotangent.double()).sum() for value, cotangent in zip(outputs, cotangents, strict=True))
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return [output.detach() for output in outputs], dict(zip(leaves, gradients, strict=True))

"""The calls that tuning times and checks: a variant on random inputs, with a candidate tile for one kernel.

Everything is lazy: nothing is loaded, drawn or run before the first attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attngen.emit.identifiers import tensor_name
from attngen.errors import CompileFailed
from attngen.ir.cascade import Input
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.space import alternate_tiles
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule

# Relative to the root mean square: tiles sum in another order, and round weights in the tensors' dtype.
_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate tile of one kernel: `run` launches the call and gives its results, `right` gives those of the default tiles."""

    role: str
    tile: TileSchedule
    run: Callable[[], Mapping[str, Tensor]]
    right: Callable[[], Mapping[str, Tensor]]


def check_values(attempt: Attempt) -> None:
    """Compare the results of a candidate with those of the default tiles.

    Raises:
        CompileFailed: they differ by more than rounding.
    """
    found, right = attempt.run(), attempt.right()
    for name, value in found.items():
        # Fully masked rows have infinite row statistics, which must be equal.
        difference = torch.where(value == right[name], 0.0, value.double() - right[name].double())
        allowed = _DIFFERENCE * _mean(right[name][right[name].isfinite()])
        if not _mean(difference) <= allowed:
            raise CompileFailed(f"{attempt.role} with {attempt.tile} gives other values of {name} than the default tile")


def _mean(values: Tensor) -> float:
    """Root mean square; 0 for no values."""
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0


class Calls:
    """The calls of one module on random inputs, created when the first one runs."""

    def __init__(
        self, kernels: Kernels, captures: Mapping[str, Any], request: Request, extents: Mapping[str, int], device: torch.device
    ) -> None:
        self.kernels, self.captures, self.request, self.extents, self.device = kernels, captures, request, extents, device
        self.program = kernels.program
        # Inputs and module are created once, on first use.
        self.inputs, self.module, self.given = cache(self._inputs), cache(self._module), cache(self._given)
        self.right = cache(self._run)

    def attempt(self, role: str, tile: TileSchedule, schedule: ModuleSchedule, usual: ModuleSchedule) -> Attempt:
        """The call in which `role` runs with `tile` and the others as in `schedule`."""
        changed, backward = schedule.replace({role: tile}), role.startswith("backward")
        return Attempt(role, tile, lambda: self._run(backward, changed, usual), lambda: self.right(backward, usual, usual))

    def _run(self, backward: bool, schedule: ModuleSchedule, usual: ModuleSchedule) -> Mapping[str, Tensor]:
        tiles = schedule.as_tiles(self.program.kernels)
        if not backward:
            return self._forward(tiles)
        wanted = {str(tensor_name(item.name)) for item in self.program.cascade.inputs if item.differentiable}
        found: Mapping[str, Tensor] = self.module().backward(*self.inputs(), *self.given(usual), tiles, wanted)
        return found

    def _forward(self, tiles: Mapping[str, Mapping[str, int]]) -> dict[str, Tensor]:
        result = self.module().forward(*self.inputs(), tiles)
        names = dict.fromkeys((*self.program.cascade.outputs, *self.kernels.saved))
        return dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))

    def _given(self, usual: ModuleSchedule) -> list[Tensor]:
        """Arguments of the backward besides the inputs: saved state and cotangents."""
        assert self.program.backward is not None, "roles of a backward come from one"
        steps = self._forward(usual.as_tiles(self.program.kernels))
        generator = torch.Generator(self.device).manual_seed(1)
        shapes = [steps[output] for output, _ in self.program.backward.cotangents]
        cotangents = [torch.randn(like.shape, generator=generator, dtype=like.dtype, device=self.device) for like in shapes]
        return [*(steps[item.name] for item in self.program.backward.saved), *cotangents]

    def _module(self) -> Any:
        kernels, dims = self.kernels, self.request.extents
        request, facts = self.request, kernels.program.facts
        tiles = [tile for item in facts for tile in alternate_tiles(item.work, request.dtype, request.target, request.length)]
        source = kernels.source(dims, frozenset(tile.alternate for tile in tiles))
        return kernels.module(
            source, "interpreted" if self.device.type == "cpu" else "compiled", self.request.target, dims, self.request.dtype
        )

    def _inputs(self) -> list[Any]:
        generator = torch.Generator(self.device).manual_seed(0)
        return [self._value(item, generator) for item in self.program.cascade.inputs]

    def _value(self, item: Input, generator: torch.Generator) -> Any:
        if item.axes is None:
            value = self.captures[item.name]
            return value.detach().to(self.device) if isinstance(value, Tensor) else value
        shape = [self.extents[axis] for axis in item.axes]
        if item.kind == "float":
            return torch.randn(shape, generator=generator, dtype=getattr(torch, self.request.dtype), device=self.device)
        kind = torch.int32 if item.kind == "int" else torch.bool
        return torch.randint(0, 2, shape, generator=generator, device=self.device).to(kind)

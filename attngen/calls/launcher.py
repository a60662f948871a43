"""Launches the host functions of a program: what direct calls and PyTorch's operators share.

Values are tensors whose dimensions are the axes of the cascade, and captured values, in the order of the inputs of the cascade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngen.calls.arguments import contiguous_features
from attngen.emit.identifiers import tensor_name
from attngen.errors import CompileFailed
from attngen.ir.cascade import Cascade, Input, operand_of, without_features
from attngen.ir.expr import Index, Read
from attngen.ir.traverse import walk
from attngen.pipeline import Source
from attngen.plan.call_plan import plan_backward
from attngen.plan.feature_lengths import check_features
from attngen.plan.programs import ProgramKey
from attngen.runtime.handle import kernel_names
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels, Loaded
from attngen.runtime.tile_list_cache import keeping
from attngen.schedule.choose import Request
from attngen.schedule.space import length_class
from attngen.toolchain.refusals import failed_launch


def origins_of(cascade: Cascade) -> dict[str, tuple[int, int]]:
    """Where the length of each axis is found: position of an input, and its dimension. Arguments come before captures."""
    found: dict[str, tuple[int, int]] = {}
    for position, item in enumerate(cascade.inputs):
        for dimension, axis in enumerate(item.axes or ()):
            found.setdefault(axis, (position, dimension))
    captures = {item.name: position for position, item in enumerate(cascade.inputs) if item.axes is None}
    for step in cascade.steps:
        for node in (*walk(step.body), *(walk(step.where) if step.where is not None else ())):
            if isinstance(node, Read) and node.tensor in captures:
                for dimension, at in enumerate(node.at):
                    if isinstance(at, Index):
                        found.setdefault(at.axis, (captures[node.tensor], dimension))
    return found


@dataclass(frozen=True, slots=True)
class Bound:
    """A program with its module and tiles for one kind of call.

    Attributes:
        kernels, loaded: the program.
        list_source: its module if its lists of tiles outlive a call.
        saved: which of the tensors that the forward saved its backward reads.
        gradients: for each differentiable input, what the backward calls its gradient, None where nobody asks for it.
        needed: all of them; empty where the backward has no kernels, for what is only compared has a gradient of zeros.
    """

    kernels: Kernels
    loaded: Loaded
    list_source: Source | None
    saved: tuple[int, ...] = ()
    gradients: tuple[str | None, ...] = ()
    needed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Kind:
    """What modules and tiles depend on; for a backward also the inputs whose gradients are asked for, and whether it is repeatable."""

    request: Request
    device: torch.device
    gradients: frozenset[str] | None = None
    repeatable: bool = False


class Launcher:
    """The forward of one program, and the backwards that go with it.

    Args:
        table: of its cascade.
        key: the program of the forward, without a dtype.
    """

    def __init__(self, table: KernelTable, key: ProgramKey) -> None:
        program = table.program(key)
        self.table, self.key, self.program = table, key, program
        self.inputs: tuple[Input, ...] = program.cascade.inputs
        self.features = program.features
        self.operand = self.inputs.index(operand_of(self.inputs, self.features))
        self.singles = tuple((self.inputs.index(item), item.name) for item in without_features(self.inputs, self.features))
        self.origins = origins_of(program.cascade)
        self.forward_axes = {step.name: step.axes for step in program.streamed.cascade.steps}
        self.outputs = program.cascade.outputs
        self.saved = tuple(item.name for item in program.backward.saved) if program.backward is not None else ()
        self.results = (*self.outputs, *(name for name in self.saved if name not in self.outputs))
        self.cotangents = program.backward.cotangents if program.backward is not None else ()
        self.ungraded = program.backward.ungraded if program.backward is not None else ()
        self.differentiable = tuple(item for item in self.inputs if item.differentiable)
        self.places = tuple(place for place, item in enumerate(self.inputs) if item.differentiable)
        self.emitted = {item.name: str(tensor_name(item.name)) for item in self.differentiable}
        self.strided = [item.name if item.axes and item.axes[-1] in self.features else None for item in self.inputs]
        self.copied: set[str] = set()
        self._bound: dict[Kind, Bound] = {}

    # ---- shapes

    def extents(self, values: Sequence[Any]) -> dict[str, int]:
        return {axis: values[position].shape[dimension] for axis, (position, dimension) in self.origins.items()}

    def dtype_of(self, name: str, model: Tensor) -> torch.dtype:
        """Of a step of the forward that is an output or saved: row statistics have that of accumulators."""
        if any(axis in self.features for axis in self.forward_axes[name]):
            return model.dtype
        return torch.float64 if model.dtype == torch.float64 else torch.float32

    def empty(self, name: str, extents: dict[str, int], model: Tensor) -> Tensor:
        return model.new_empty([extents[axis] for axis in self.forward_axes[name]], dtype=self.dtype_of(name, model))

    def model(self, values: Sequence[Any]) -> Tensor:
        return values[self.operand]

    def request(self, values: Sequence[Any]) -> Request:
        """What tiles are chosen for.

        Raises:
            ShapeMismatch: there are no features.
        """
        extents, model, streamed = self.extents(values), self.model(values), self.program.streamed
        dims = tuple((axis, extents[axis]) for axis in self.features)
        check_features(dims)
        length = length_class(extents[streamed.resident], extents[streamed.streamed])
        singles = tuple(name for place, name in self.singles if values[place].dtype != model.dtype)
        return Request(dims, str(model.dtype).removeprefix("torch."), self.table.target(model.device), length, singles)

    # ---- modules

    def bound(self, kind: Kind) -> Bound:
        """The program that a kind of call launches, built where it is not.

        Raises:
            CompileFailed, DoesNotFit, MissingKernel
        """
        if kind not in self._bound:
            kernels, loaded = self._loaded(kind)
            source = kernels.source(kind.request.extents) if kernels.options.keep_lists else None
            list_source = source if source is not None and any(kernel.tile_list_of for kernel, _ in source.lowered) else None
            names = [(item.name, self.emitted[item.name]) for item in self.differentiable]
            # Modules call tensors by names of their own where the user's would be in the way.
            gradients = tuple(mine if name in (kind.gradients or ()) else None for name, mine in names)
            backward = kernels.program.backward
            has_kernels = backward is not None and bool(backward.gradients)
            needed = frozenset(name for name in gradients if name is not None and has_kernels)
            saved = tuple(self.saved.index(name) for name in kernels.saved) if needed else ()
            self._bound[kind] = Bound(kernels, loaded, list_source, saved, gradients, needed)
        return self._bound[kind]

    def _loaded(self, kind: Kind) -> tuple[Kernels, Loaded]:
        request, table = kind.request, self.table
        if kind.gradients is None:
            kernels = table.kernels(ProgramKey(request.dtype, self.key.gradients, self.key.split))
            return kernels, kernels.get(request, kind.device)
        in_order = table.runs_in_order(kind.device)
        key, _ = plan_backward(table, request, kind.gradients, repeatable=kind.repeatable, in_order=in_order)
        try:
            return table.kernels(key), table.kernels(key).get(request, kind.device)
        except CompileFailed:
            table.decide_again()
            other, _ = plan_backward(table, request, kind.gradients, repeatable=kind.repeatable, in_order=in_order)
            if other == key:
                raise
            return table.kernels(other), table.kernels(other).get(request, kind.device)

    def refuse(self, bound: Bound, request: Request, error: Exception) -> None:
        """Have a tile passed over that Triton failed to compile at a launch; anything else that went wrong is raised again."""
        failed = failed_launch(error)
        role = None if failed is None else next((role for role in bound.loaded.tiles if failed[0] in kernel_names(role)), None)
        if failed is None or role is None:
            raise error
        bound.kernels.refuse(request, [(role, bound.kernels.settled(request)[role], failed[1])])
        self._bound.clear()

    def launch(self, kind: Kind, call: Callable[[Bound], Any]) -> Any:
        """Launch with the tiles that stand; where Triton fails to compile one of them, others take its place."""
        while True:
            bound = self.bound(kind)
            try:
                return call(bound)
            except Exception as error:
                self.refuse(bound, kind.request, error)

    def lists(self, bound: Bound, values: Sequence[Any]) -> dict[str, Any]:
        """The argument that lets lists of tiles outlive a call."""
        if bound.list_source is None:
            return {}
        lengths = tuple(sorted((axis, length) for axis, length in self.extents(values).items()))
        return keeping(bound.kernels.kept.of(bound.list_source, self.inputs, values, (lengths, id(bound.loaded))))

    # ---- calls

    def ready(self, values: Sequence[Any]) -> list[Any]:
        """Copies of arguments whose features are strided; captures are read through all of their strides."""
        return contiguous_features(self.strided, values, self.copied)

    def forward(self, bound: Bound, values: Sequence[Any], ready: Sequence[Any], splits: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """Outputs, then what is saved besides.

        Args:
            bound: the program.
            values: of the call. ready: the same, as `ready` gives them.
            splits: their number, for split-KV.
        """
        loaded = bound.loaded
        if bound.list_source is None:
            found = loaded.module.forward(*ready, loaded.tiles, *splits)
        else:
            found = loaded.module.forward(*ready, loaded.tiles, *splits, **self.lists(bound, values))
        return found if isinstance(found, tuple) else (found,)

    def backward(
        self, bound: Bound, values: Sequence[Any], ready: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients of the differentiable inputs, None of those that nobody asked for.

        Args:
            bound: the program.
            values: of the call. ready: the same, as `ready` gives them.
            saved: in the order of `saved`. cotangents: in the order of `cotangents`.
        """
        found: dict[str, Tensor] = {}
        if bound.needed:
            given = contiguous_features([name for _, name in self.cotangents], cotangents, None)
            kept = [saved[place].contiguous() for place in bound.saved]
            loaded, lists = bound.loaded, {} if bound.list_source is None else self.lists(bound, values)
            found = loaded.module.backward(*ready, *kept, *given, loaded.tiles, bound.needed, **lists)
        gradients: list[Tensor | None] = []
        for place, name in zip(self.places, bound.gradients, strict=True):
            if name is None or name in found:
                gradients.append(None if name is None else found[name])
            else:
                gradients.append(torch.zeros_like(values[place], memory_format=torch.contiguous_format))
        return gradients

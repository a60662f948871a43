"""A compiled variant as PyTorch sees it: one custom operator for the forward, one for the backward, with fakes and autograd.

The operators take tensors whose dimensions are the axes of the cascade, so that everything around them (splitting heads, broadcasting)
is ordinary differentiable PyTorch. Their names carry a hash of the program: equal programs share operators, different ones never do.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attngen.emit.identifiers import tensor_name
from attngen.errors import CompileFailed, NotDifferentiable, ShapeMismatch
from attngen.ir.cascade import Cascade, Input, operand_of, without_features
from attngen.ir.expr import Index, Read
from attngen.ir.traverse import walk
from attngen.runtime.arguments import contiguous_features, no_gradient, no_gradient_through
from attngen.runtime.forms import form, other_form
from attngen.runtime.handle import kernel_names
from attngen.runtime.kernels import Kernels, Loaded
from attngen.runtime.namespace import full_name, making, schema
from attngen.runtime.splitting import multiprocessors, parts_of
from attngen.runtime.tile_list_cache import keeping
from attngen.toolchain.refusals import failed_launch


@dataclass(frozen=True, slots=True)
class Operators:
    """The two operators of a program; `forward` returns outputs, then saved tensors."""

    forward: Any
    backward: Any


_REGISTERED: dict[str, Operators] = {}
_LOCK = threading.Lock()


def operators(kernels: Kernels) -> Operators:
    """The operators of a program, registered on first use."""
    text = "\n".join((str(kernels.program.cascade), repr(kernels.options), repr(kernels.knobs)))
    name = f"{kernels.name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    with _LOCK:
        if name not in _REGISTERED:
            _REGISTERED[name] = _Registration(kernels, name).register()
        return _REGISTERED[name]


def _origins(cascade: Cascade) -> dict[str, tuple[int, int]]:
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


def _each(op: Any, info: Any, in_dims: Sequence[Any], *values: Any) -> tuple[Any, Any]:
    """What vmap asks for: the operator for each element of a batch, one after the other."""
    if not isinstance(values[-1], Tensor) and isinstance(in_dims[-1], list):  # the flags of a backward, which are no batch
        in_dims = (*in_dims[:-1], None)

    def element(number: int) -> list[Any]:
        return [value if dim is None else value.select(dim, number) for value, dim in zip(values, in_dims, strict=True)]

    results = [op(*element(number)) for number in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = type(results[0])(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, type(results[0])(0 for _ in stacked)


class _Registration:
    """What both operators share: names, shapes and the order of values."""

    def __init__(self, kernels: Kernels, name: str) -> None:
        program = kernels.program
        self.kernels = kernels
        self.name = name
        self.inputs: tuple[Input, ...] = program.cascade.inputs
        self.features = program.features
        self.operand = self.inputs.index(operand_of(self.inputs, self.features))
        self.singles = tuple((self.inputs.index(item), item.name) for item in without_features(self.inputs, self.features))
        self.origins = _origins(program.cascade)
        self.forward_axes = {step.name: step.axes for step in program.streamed.cascade.steps}
        self.outputs = program.cascade.outputs
        self.saved = kernels.saved
        self.extras = tuple(name for name in self.saved if name not in self.outputs)
        self.cotangents = program.backward.cotangents if program.backward is not None else ()
        self.ungraded = program.backward.ungraded if program.backward is not None else ()
        self.differentiable = tuple(item for item in self.inputs if item.differentiable)
        self.copied: set[str] = set()

    # ---- shapes

    def extents(self, tensors: Sequence[Any]) -> dict[str, int]:
        return {axis: tensors[position].shape[dimension] for axis, (position, dimension) in self.origins.items()}

    def empty(self, name: str, extents: dict[str, int], model: Tensor) -> Tensor:
        axes = self.forward_axes[name]
        wide = any(axis in self.features for axis in axes)
        accumulator = torch.float64 if model.dtype == torch.float64 else torch.float32
        return model.new_empty([extents[axis] for axis in axes], dtype=model.dtype if wide else accumulator)

    def model(self, tensors: Sequence[Any]) -> Tensor:
        return tensors[self.operand]

    def dtype(self, tensors: Sequence[Any]) -> str:
        return str(self.model(tensors).dtype).removeprefix("torch.")

    def load(self, kernels: Kernels, tensors: Sequence[Any], *, backward: bool = False) -> tuple[Kernels, Loaded]:
        """The kernels that run, which for a backward may be those of its other form, with their tiles."""
        extents = self.extents(tensors)
        program = kernels.program
        dims = {axis: extents[axis] for axis in self.features}
        for axis, size in dims.items():
            if size == 0:
                raise ShapeMismatch(f"the feature axis {axis} has length 0", remedy="Queries, keys and values need at least one feature.")
        lengths = (extents[program.streamed.resident], extents[program.streamed.streamed])
        model = self.model(tensors)
        singles = self.narrow_singles(tensors)
        if not backward:
            return kernels, kernels.get(dims, model, lengths, singles)
        asked = (dims, self.dtype(tensors), kernels.target(model.device), lengths)
        found = form(kernels, *asked).kernels
        try:
            return found, found.get(dims, model, lengths, singles)
        except CompileFailed:
            found = other_form(kernels, found, *asked)
            return found, found.get(dims, model, lengths, singles)

    def narrow_singles(self, tensors: Sequence[Any]) -> tuple[str, ...]:
        """Arguments without features that are fp32 beside others."""
        model = self.model(tensors)
        return tuple(name for place, name in self.singles if tensors[place].dtype != model.dtype)

    def kept(self, kernels: Kernels, loaded: Loaded, tensors: Sequence[Any]) -> dict[str, Any]:
        """The argument that lets lists of tiles outlive a call, where the user asked for it and there are any."""
        if not kernels.options.keep_lists:
            return {}
        extents = self.extents(tensors)
        source = kernels.source({axis: extents[axis] for axis in self.features})
        if not any(kernel.tile_list_of for kernel, _ in source.lowered):
            return {}
        lengths = tuple(sorted((axis, length) for axis, length in extents.items()))
        return keeping(kernels.kept.of(source, self.inputs, tensors, (lengths, id(loaded))))

    def parts(self, kernels: Kernels, loaded: Loaded, tensors: Sequence[Any]) -> tuple[int, ...]:
        """How many parts a divided stream has in a call."""
        if not kernels.options.divided:
            return ()
        kernel, device = kernels.program.kernels[0], self.model(tensors).device
        rows = loaded.tiles[kernel.role][f"BLOCK_{kernel.resident.upper()}"]
        return (parts_of(kernel, self.extents(tensors), rows, multiprocessors(kernels.target(device), device)),)

    # ---- implementations

    def ready(self, tensors: Sequence[Any]) -> list[Any]:
        """Copies of arguments whose features are strided; captures are read through all of their strides."""
        names = [item.name if item.axes is not None and item.axes[-1:] and item.axes[-1] in self.features else None for item in self.inputs]
        return contiguous_features(names, tensors, self.copied)

    def run(self, kernels: Kernels, tensors: Sequence[Any], call: Callable[[Kernels, Loaded], Any], *, backward: bool = False) -> Any:
        """Launch with the tiles that stand; where Triton fails to compile one of them, others take its place."""
        while True:
            running, loaded = self.load(kernels, tensors, backward=backward)
            try:
                return call(running, loaded)
            except Exception as error:
                failed = failed_launch(error)
                role = None if failed is None else next((role for role in loaded.tiles if failed[0] in kernel_names(role)), None)
                if failed is None or role is None:
                    raise
                extents, model, program = self.extents(tensors), self.model(tensors), running.program
                dims = {axis: extents[axis] for axis in self.features}
                lengths = (extents[program.streamed.resident], extents[program.streamed.streamed])
                asked = (dims, self.dtype(tensors), running.target(model.device), lengths, self.narrow_singles(tensors))
                tile = running.settled(*asked)[role]
                running.refuse(running.request(*asked), [(role, tile, failed[1])])

    def forward(self, *tensors: Any) -> Any:
        ready = self.ready(tensors)

        def call(kernels: Kernels, loaded: Loaded) -> Any:
            parts, kept = self.parts(kernels, loaded, tensors), self.kept(kernels, loaded, tensors)
            return loaded.module.forward(*ready, loaded.tiles, *parts, **kept)

        result = self.run(self.kernels.at(self.dtype(tensors)), tensors, call)
        return result[0] if isinstance(result, tuple) and len(result) == 1 else result

    def forward_fake(self, *tensors: Any) -> Any:
        extents, model = self.extents(tensors), self.model(tensors)
        result = [self.empty(name, extents, model) for name in (*self.outputs, *self.extras)]
        return tuple(result) if len(result) > 1 else result[0]

    def backward(self, *values: Any) -> Any:
        found = self.gradients(*values)
        return tuple(found) if len(found) > 1 else found[0]

    def gradients(self, *values: Any) -> list[Tensor]:
        needed = values[-1]
        count = len(self.inputs)
        tensors, rest = values[:count], values[count:-1]
        names = {item.name for item, wanted in zip(self.differentiable, needed, strict=True) if wanted}
        kernels = self.kernels.at(self.dtype(tensors)).wanting(frozenset(names))
        by_name = dict(zip((item.name for item in self.inputs), tensors, strict=True))
        model = self.model(tensors)
        if kernels.program.backward is None or not kernels.program.backward.gradients:
            # What is only compared has a gradient, of zeros.
            return [self.gradient(item, {}, by_name, names, model) for item in self.differentiable]
        ready = self.ready(tensors)
        cotangents = contiguous_features([name for _, name in self.cotangents], rest[len(self.saved) :], None)
        kept = dict(zip(self.saved, rest, strict=False))
        # Modules call tensors by names of their own where the user's would be in the way.
        emitted = {str(tensor_name(name)) for name in names}

        def call(kernels: Kernels, loaded: Loaded) -> Any:
            saved = [kept[name].contiguous() for name in kernels.saved]
            return loaded.module.backward(*ready, *saved, *cotangents, loaded.tiles, emitted, **self.kept(kernels, loaded, tensors))

        found = self.run(kernels, tensors, call, backward=True)
        return [self.gradient(item, found, by_name, names, model) for item in self.differentiable]

    def gradient(self, item: Input, found: dict[str, Tensor], by_name: dict[str, Any], names: set[str], model: Tensor) -> Tensor:
        if item.name not in names:
            return model.new_empty(0)
        name = str(tensor_name(item.name))
        return found[name] if name in found else torch.zeros_like(by_name[item.name], memory_format=torch.contiguous_format)

    def backward_fake(self, *values: Any) -> Any:
        needed, tensors = values[-1], values[: len(self.inputs)]
        by_name = dict(zip((item.name for item in self.inputs), tensors, strict=True))
        model = self.model(tensors)
        found = [
            by_name[item.name].new_empty(by_name[item.name].shape) if wanted else model.new_empty(0)
            for item, wanted in zip(self.differentiable, needed, strict=True)
        ]
        return tuple(found) if len(found) > 1 else found[0]

    # ---- autograd

    def setup(self, ctx: Any, inputs: Any, output: Any) -> None:
        results = output if isinstance(output, tuple) else (output,)
        named = dict(zip((*self.outputs, *self.extras), results, strict=True))
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors, *(named[name] for name in self.saved))
        ctx.plain = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.mark_non_differentiable(*(named[name] for name in self.extras))
        # A cotangent that nobody gave is None then.
        ctx.set_materialize_grads(not self.ungraded)

    def differentiate(self, ctx: Any, *cotangents: Any) -> Any:
        saved = list(ctx.saved_tensors)
        inputs = [saved.pop(0) if value is None else value for value in ctx.plain]
        needed = [bool(ctx.needs_input_grad[i]) for i, item in enumerate(self.inputs) if item.differentiable]
        for name, error in self.kernels.program.refused:
            if needed[[item.name for item in self.differentiable].index(name)]:
                raise no_gradient(name, error, self.kernels.program.cascade)
        for (name, _), grad in zip(self.cotangents, cotangents, strict=False):
            if grad is not None and name in self.ungraded:
                raise no_gradient_through(name, self.kernels.program.cascade)
        extents, model = self.extents(inputs), self.model(inputs)
        given = [
            self.empty(name, extents, model).zero_() if grad is None else grad
            for (name, _), grad in zip(self.cotangents, cotangents[: len(self.cotangents)], strict=True)
        ]
        op = _REGISTERED[self.name].backward
        result = op(*inputs, *saved, *given, needed)
        results: Sequence[Tensor] = (result,) if isinstance(result, Tensor) else result
        found = dict(zip((item.name for item in self.differentiable), results, strict=True))
        wanted = {item.name for item, need in zip(self.differentiable, needed, strict=True) if need}
        return tuple(found[item.name] if item.name in wanted else None for item in self.inputs)

    def refuse_second_order(self, ctx: Any, *cotangents: Any) -> Any:
        raise NotDifferentiable(
            f"gradients of the gradients of {self.kernels.name} are not available",
            remedy="Use attend.reference(...), which is differentiable twice, for small checks.",
        )

    # ---- registration

    def register(self) -> Operators:
        values = ["Tensor" if not item.by_value else "bool" if item.kind == "bool" else "int" for item in self.inputs]
        count = len(self.outputs) + len(self.extras)
        name, types = full_name(f"{self.name}_forward", values, count), schema(values, count)
        with making(name):
            forward = torch.library.custom_op(f"attngen::{name}", self.forward, mutates_args=(), schema=types)
        forward.register_fake(self.forward_fake)
        values += ["Tensor"] * (len(self.saved) + len(self.cotangents)) + ["bool[]"]
        # Tensors one by one, not a list: what batches cotangents (is_grads_batched) takes no other.
        types = schema(values, len(self.differentiable))
        backward = torch.library.custom_op(f"attngen::{self.name}_backward", self.backward, mutates_args=(), schema=types)
        backward.register_fake(self.backward_fake)
        if self.cotangents and self.kernels.options.gradients:
            forward.register_autograd(self.differentiate, setup_context=self.setup)
        backward.register_autograd(self.refuse_second_order)
        forward.register_vmap(partial(_each, forward))
        backward.register_vmap(partial(_each, backward))
        return Operators(forward, backward)

"""A compiled variant as PyTorch sees it: one custom operator for the forward, one for the backward, with fakes and autograd.

The operators take tensors whose dimensions are the axes of the cascade, so that everything around them (splitting heads, broadcasting)
is ordinary differentiable PyTorch. Their names carry a hash of the program: equal programs share operators, different ones never do.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attngen.calls.launcher import Kind, Launcher
from attngen.calls.namespace import arrived, expect, full_name, making, schema
from attngen.calls.refused_gradients import no_gradient, no_gradient_through
from attngen.errors import NotDifferentiable
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable


@dataclass(frozen=True, slots=True)
class Operators:
    """The two operators of a program; `forward` returns outputs, then saved tensors."""

    forward: Any
    backward: Any


_REGISTERED: dict[str, Operators] = {}
_LOCK = threading.RLock()


def operator_name(table: KernelTable) -> str:
    """What the names of the operators of a cascade begin with."""
    text = "\n".join((str(table.start.cascade), repr(table.options), repr(table.knobs)))
    return f"{table.name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def announce(table: KernelTable) -> None:
    """Have the operators of a cascade made when a saved program names them."""
    name = operator_name(table)
    if name not in _REGISTERED:
        expect(name, lambda: operators(table))


def operators(table: KernelTable) -> Operators:
    """The operators of a cascade, registered on first use."""
    name = operator_name(table)
    with _LOCK:
        if name not in _REGISTERED:
            arrived(name)
            _REGISTERED[name] = _Registration(Launcher(table, ProgramKey()), name).register()
        return _REGISTERED[name]


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
    """What both operators share."""

    def __init__(self, launcher: Launcher, name: str) -> None:
        self.launcher, self.name = launcher, name
        self.extras = launcher.results[len(launcher.outputs) :]

    # ---- implementations

    def forward(self, *values: Any) -> Any:
        launcher = self.launcher
        kind = Kind(launcher.request(values), launcher.model(values).device)
        found = launcher.launch(kind, lambda bound: launcher.forward(bound, values, launcher.ready(values)))
        return found if len(found) > 1 else found[0]

    def forward_fake(self, *values: Any) -> Any:
        launcher = self.launcher
        extents, model = launcher.extents(values), launcher.model(values)
        result = [launcher.empty(name, extents, model) for name in launcher.results]
        return tuple(result) if len(result) > 1 else result[0]

    def backward(self, *given: Any) -> Any:
        launcher, needed = self.launcher, given[-1]
        values, rest = given[: len(launcher.inputs)], given[len(launcher.inputs) : -1]
        names = frozenset(item.name for item, wanted in zip(launcher.differentiable, needed, strict=True) if wanted)
        model = launcher.model(values)
        kind = Kind(launcher.request(values), model.device, names, torch.are_deterministic_algorithms_enabled())
        saved, cotangents = rest[: len(launcher.saved)], rest[len(launcher.saved) :]
        found = launcher.launch(kind, lambda bound: launcher.backward(bound, values, launcher.ready(values), saved, cotangents))
        gradients = [model.new_empty(0) if gradient is None else gradient for gradient in found]
        return tuple(gradients) if len(gradients) > 1 else gradients[0]

    def backward_fake(self, *given: Any) -> Any:
        launcher, needed, model = self.launcher, given[-1], self.launcher.model(given)
        by_name = dict(zip((item.name for item in launcher.inputs), given, strict=False))
        found = [
            by_name[item.name].new_empty(by_name[item.name].shape) if wanted else model.new_empty(0)
            for item, wanted in zip(launcher.differentiable, needed, strict=True)
        ]
        return tuple(found) if len(found) > 1 else found[0]

    # ---- autograd

    def setup(self, ctx: Any, inputs: Any, output: Any) -> None:
        launcher = self.launcher
        results = output if isinstance(output, tuple) else (output,)
        named = dict(zip(launcher.results, results, strict=True))
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors, *(named[name] for name in launcher.saved))
        ctx.plain = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.mark_non_differentiable(*(named[name] for name in self.extras))
        # A cotangent that nobody gave is None then.
        ctx.set_materialize_grads(not launcher.ungraded)

    def differentiate(self, ctx: Any, *cotangents: Any) -> Any:
        launcher = self.launcher
        saved = list(ctx.saved_tensors)
        inputs = [saved.pop(0) if value is None else value for value in ctx.plain]
        needed = [bool(ctx.needs_input_grad[i]) for i, item in enumerate(launcher.inputs) if item.differentiable]
        check_cotangents(launcher, needed, cotangents)
        given = given_cotangents(launcher, inputs, cotangents[: len(launcher.cotangents)])
        gradients = through_operator(launcher, inputs, saved, given, needed)
        found = dict(zip((item.name for item in launcher.differentiable), gradients, strict=True))
        return tuple(found.get(item.name) for item in launcher.inputs)

    def refuse_second_order(self, ctx: Any, *cotangents: Any) -> Any:
        raise NotDifferentiable(
            f"gradients of the gradients of {self.launcher.table.name} are not available",
            remedy="Use attend.reference(...), which is differentiable twice, for small checks.",
        )

    # ---- registration

    def register(self) -> Operators:
        launcher = self.launcher
        values = ["Tensor" if not item.by_value else "bool" if item.kind == "bool" else "int" for item in launcher.inputs]
        count = len(launcher.results)
        name, types = full_name(f"{self.name}_forward", values, count), schema(values, count)
        with making(name):
            forward = torch.library.custom_op(f"attngen::{name}", self.forward, mutates_args=(), schema=types)
        forward.register_fake(self.forward_fake)
        values += ["Tensor"] * (len(launcher.saved) + len(launcher.cotangents)) + ["bool[]"]
        # Tensors one by one, not a list: what batches cotangents (is_grads_batched) takes no other.
        types = schema(values, len(launcher.differentiable))
        backward = torch.library.custom_op(f"attngen::{self.name}_backward", self.backward, mutates_args=(), schema=types)
        backward.register_fake(self.backward_fake)
        if launcher.cotangents:
            forward.register_autograd(self.differentiate, setup_context=self.setup)
        backward.register_autograd(self.refuse_second_order)
        forward.register_vmap(partial(_each, forward))
        backward.register_vmap(partial(_each, backward))
        return Operators(forward, backward)


def check_cotangents(launcher: Launcher, needed: Sequence[bool], cotangents: Sequence[Tensor | None]) -> None:
    """Refuse gradients that there are not.

    Args:
        launcher: of the forward.
        needed: for each differentiable input, whether its gradient is asked for.
        cotangents: of the outputs that have kernels for theirs, in the order of `launcher.cotangents`.

    Raises:
        NotDifferentiable: no kernel computes a gradient that is asked for, or takes a cotangent that is given.
    """
    program = launcher.program
    for name, error in program.refused:
        if needed[[item.name for item in launcher.differentiable].index(name)]:
            raise no_gradient(name, error, program.cascade)
    if launcher.ungraded:
        for (name, _), grad in zip(launcher.cotangents, cotangents, strict=False):
            if grad is not None and name in launcher.ungraded:
                raise no_gradient_through(name, program.cascade)


def given_cotangents(launcher: Launcher, values: Sequence[Any], cotangents: Sequence[Tensor | None]) -> list[Tensor]:
    """The cotangents of a backward, zeros where nobody gave one."""
    extents, model = launcher.extents(values), launcher.model(values)
    return [
        launcher.empty(name, extents, model).zero_() if grad is None else grad
        for (name, _), grad in zip(launcher.cotangents, cotangents, strict=True)
    ]


def through_operator(
    launcher: Launcher, values: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the differentiable inputs by the backward operator, which compilers, transforms and modes look into."""
    result = operators(launcher.table).backward(*values, *saved, *cotangents, list(needed))
    results: Sequence[Tensor] = (result,) if isinstance(result, Tensor) else result
    return [grad if need else None for grad, need in zip(results, needed, strict=True)]

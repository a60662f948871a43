"""A variant run on random values in the interpreter and held to the float64 reference, forward and backward.

Takes the `Kernels` of a variant and the values of its captures, gives one `Deviation` for each output and gradient. Small on purpose:
lengths are ragged and a few tiles long. The limit is the contract of every kernel: twice the error of the same formula run by PyTorch at
the same precision, and two roundings; in float64, 1e-12 of the largest value. Errors are the largest of several draws, for that of a
single number (the gradient of a scalar) is chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngen.emit.identifiers import tensor_name
from attngen.interpreter.torch_reference import reference
from attngen.ir.cascade import Cascade, Input, operand_of
from attngen.ir.expr import Apply, Extent, Index, Read
from attngen.ir.traverse import walk
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.space import length_class
from attngen.targets import table as targets

RESIDENT_LENGTH, STREAMED_LENGTH, GRID_LENGTH = 70, 90, 2
DRAWS = 3


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest absolute error of one output or gradient, and the largest that is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the contract; a NaN is not."""
        return self.error <= self.allowed


def trial(table: KernelTable, captures: Mapping[str, Any], features: Mapping[str, int], dtype: str) -> tuple[Deviation, ...]:
    """Run forward and backward.

    Args:
        table: of the variant.
        captures: values of the captured inputs, on the CPU.
        features: lengths of the feature axes.
        dtype: of the arguments, by its short name.
    """
    kernels = table.kernels(ProgramKey(dtype))
    lengths = extents(kernels, captures, features)
    kind: torch.dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    draws = [_draw(kernels, captures, lengths, features, kind, generator) for _ in range(DRAWS)]
    return tuple(
        _deviation(name, *(torch.stack(values) for values in zip(*(draw[name] for draw in draws), strict=True))) for name in draws[0]
    )


def _draw(
    kernels: Kernels,
    captures: Mapping[str, Any],
    lengths: Mapping[str, int],
    features: Mapping[str, int],
    kind: torch.dtype,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Each output and gradient for one draw of values: of the kernels, exact, and of PyTorch at the same precision."""
    cascade = kernels.program.cascade
    values = {
        item.name: captures[item.name] if item.axes is None else random_values(item, lengths, kind, generator) for item in cascade.inputs
    }
    found, cotangents = _run(kernels, values, lengths, features, generator)
    exact = _reference(cascade, values, cotangents, torch.float64, None)
    plain = _reference(cascade, values, cotangents, *_yardstick(kind))
    return {name: (value, exact[name], plain[name]) for name, value in found.items()}


def extents(kernels: Kernels, captures: Mapping[str, Any], features: Mapping[str, int]) -> dict[str, int]:
    """A small length for every axis, no longer than captured tensors that it indexes."""
    program = kernels.program
    axes = {axis for item in program.cascade.inputs for axis in item.axes or ()} | set(features)
    lengths = {**dict.fromkeys(sorted(axes), GRID_LENGTH), **features}
    lengths |= {program.streamed.resident: RESIDENT_LENGTH, program.streamed.streamed: STREAMED_LENGTH}
    return shortened(program.cascade, captures, lengths)


def shortened(cascade: Cascade, captures: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, int]:
    """Lengths of axes, cut to those of the captured tensors that they index."""
    found = dict(lengths)
    for step in cascade.steps:
        for node in (*walk(step.body), *(walk(step.where) if step.where is not None else ())):
            value = captures.get(node.tensor) if isinstance(node, Read) else None
            if isinstance(node, Read) and isinstance(value, Tensor):
                for at, size in zip(node.at, value.shape, strict=True):
                    _shorten(found, at, size)
    return found


def _shorten(lengths: dict[str, int], at: object, size: int) -> None:
    match at:
        case Index(axis=axis):
            lengths[axis] = min(lengths[axis], size)
        case Apply(op="add", args=(Apply(op="mul", args=(Index(axis=outer), Extent(axis=inner))), Index(axis=last))) if inner == last:
            lengths[inner] = min(lengths[inner], max(size // lengths[outer], 1))
            lengths[outer] = min(lengths[outer], max(size // lengths[inner], 1))
        case _:
            pass


def random_values(item: Input, lengths: Mapping[str, int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Values for an argument on the CPU: normal, or zeros and ones for integers and booleans."""
    shape = [lengths[axis] for axis in item.axes or ()]
    if item.kind == "float":
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int32 if item.kind == "int" else torch.int8).to(
        torch.int32 if item.kind == "int" else torch.bool
    )


def _run(
    kernels: Kernels, values: Mapping[str, Any], lengths: Mapping[str, int], features: Mapping[str, int], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and gradients by name, and the cotangents that led to them."""
    program, backward = kernels.program, kernels.program.backward
    model = values[operand_of(program.cascade.inputs, program.features).name]
    length = length_class(lengths[program.streamed.resident], lengths[program.streamed.streamed])
    dtype = str(model.dtype).removeprefix("torch.")
    request = Request(tuple(features.items()), dtype, targets.get(kernels.arch or "sm90"), length)
    # The text of the kernels is what is checked, which the CPU engine does not run.
    loaded = kernels.loaded_for(request, "interpreted" if model.device.type == "cpu" else kernels.mode(model.device))
    inputs = list(values.values())
    result = loaded.module.forward(*inputs, loaded.tiles)
    saved = tuple(item.name for item in backward.saved) if backward is not None else ()
    steps = dict(zip(dict.fromkeys((*program.cascade.outputs, *saved)), result if isinstance(result, tuple) else (result,), strict=True))
    found: dict[str, Tensor] = {name: steps[name] for name in program.cascade.outputs}
    if backward is None or not backward.cotangents:
        return found, {}
    cotangents = {
        output: torch.randn(steps[output].shape, generator=generator, dtype=torch.float64).to(steps[output].dtype)
        for output, _ in backward.cotangents
    }
    wanted = {str(tensor_name(item.name)): item.name for item in program.cascade.inputs if item.differentiable}
    given = [cotangents[output] for output, _ in backward.cotangents]
    gradients = loaded.module.backward(*inputs, *(steps[name] for name in saved), *given, loaded.tiles, set(wanted))
    return {**found, **{f"d{wanted[name]}": value for name, value in gradients.items()}}, cotangents


def _yardstick(dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype | None]:
    """What PyTorch would compute in, and what it would round results to."""
    return (dtype, None) if dtype in (torch.float32, torch.float64) else (torch.float32, dtype)


def _reference(
    cascade: Cascade, values: Mapping[str, Any], cotangents: Mapping[str, Tensor], dtype: torch.dtype, rounding: torch.dtype | None
) -> dict[str, Tensor]:
    targets = [item.name for item in cascade.inputs if item.differentiable]
    leaves = {name: values[name].detach().to(dtype).clone().requires_grad_() for name in targets}
    steps = reference(cascade, {**values, **leaves}, dtype, rounding)
    live = [(steps[name], given.to(dtype)) for name, given in cotangents.items() if steps[name].requires_grad]
    # Rows that attend to nothing have a logsumexp of minus infinity, whose gradient is none.
    terms = [torch.where(value.isfinite(), value * given, torch.zeros_like(value)).sum() for value, given in live]
    total = sum(terms, torch.zeros((), dtype=dtype))
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True) if live else [None] * len(targets)
    gradients = {f"d{name}": torch.zeros_like(leaves[name]) if grad is None else grad for name, grad in zip(targets, found, strict=True)}
    return {**{name: steps[name].detach() for name in cascade.outputs}, **gradients}


def _deviation(name: str, value: Tensor, exact: Tensor, plain: Tensor) -> Deviation:
    finite = exact.isfinite()
    if value.numel() == 0 or not finite.any():
        return Deviation(name, 0.0, 0.0)
    scale, error = exact[finite].abs().max(), (value.double() - exact)[finite].abs().max()
    if value.dtype == torch.float64:
        # The reference is no more exact than the kernel.
        return Deviation(name, float(error), 1e-12 * max(float(scale), 1.0))
    unit = torch.finfo(value.dtype).eps / 2
    allowed = 2 * (plain.double() - exact)[finite].abs().max() + 2 * unit * scale
    return Deviation(name, float(error), float(allowed))

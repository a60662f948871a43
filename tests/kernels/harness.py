"""Emit a cascade, run it in the interpreter, and hold outputs and gradients to the float64 reference.

Values go in as they are given, strides included. Whatever an emitted module allocates is filled with NaN first, so that an element that
no kernel writes shows up in every comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attngen.analysis.axis_roles import roles
from attngen.cache.load import load_module
from attngen.emit.identifiers import tensor_name
from attngen.engine.cpu_kernel import on_cpu
from attngen.frontend.spec import Spec
from attngen.interpreter.interpreter import interpreted
from attngen.interpreter.torch_reference import TorchBackend, reference
from attngen.ir.cascade import Cascade
from attngen.ir.eval.axis_lengths import axis_extents
from attngen.ir.eval.interpret import interpret
from attngen.ir.parser import parse
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.pipeline import analyse, build, for_dtype, fused
from tests.kernels import memory

Tiles = Mapping[str, Mapping[str, int]]
Allocate = Callable[..., Tensor]
_FOLDER = tempfile.TemporaryDirectory(prefix="attngen-kernels-")


@dataclass(frozen=True)
class Emitted:
    """An interpreted module, its traced cascade, how its host functions are called, and the rewrites that changed one of its kernels."""

    cascade: Cascade
    module: ModuleType
    text: str
    roles: tuple[str, ...]
    saved: tuple[str, ...]
    cotangents: tuple[tuple[str, str], ...]
    targets: tuple[str, ...]
    rewritten: frozenset[str]


@dataclass(frozen=True)
class Results:
    """Outputs by step name, gradients by input name."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def items(self) -> list[tuple[str, Tensor]]:
        return [*self.outputs.items(), *((f"gradient of {name}", value) for name, value in self.gradients.items())]


class Torch:
    """The `torch` that an interpreted module sees: `empty` gives memory full of NaN, or comes from another allocator, as `zeros` does."""

    def __init__(self, allocate: Allocate) -> None:
        self.empty = allocate

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
        return self.empty(shape, dtype=dtype, device=device).zero_()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def not_a_number(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """What `torch.empty` gives to emitted modules."""
    return torch.full(shape, memory.poison(dtype), dtype=dtype, device=device)


@cache
def emitted(
    cascade: Cascade,
    tiles_: Cuts,
    dtype: str,
    allocate: Allocate = not_a_number,
    without: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
    divided: bool = False,
    one_walk: bool = False,
    alternates: frozenset[str] = frozenset(),
    precise_delta: bool | None = None,
    engine: bool = False,
) -> Emitted:
    """The module for a traced cascade and a dtype of arguments, whose feature axes are cut so; `divided` ones have no gradients,
    those in `one_walk` have the fused backward, others the alternate kernels of these flags; those of the `engine` run in it."""
    wanted = frozenset[str]() if divided else None
    general = analyse(cascade, wanted=wanted, without=without, asked=asked, divided=divided, precise_delta=precise_delta)
    program = for_dtype(general, dtype)
    other = fused(program) if one_walk else program
    assert other is not None, "this variant has no fused backward"
    source = build(other, "tested", tiles_, alternates)
    form = (str(cascade), tiles_, dtype, without, asked, divided, one_walk, alternates, precise_delta)
    path = Path(_FOLDER.name) / f"kernels_{abs(hash(form))}.py"
    path.write_text(source.text, encoding="utf-8")
    loaded = load_module(path, "tested")
    module = on_cpu(loaded, source) if engine else interpreted(loaded)
    vars(module)["torch"] = Torch(allocate)
    # Chunks of one tile of rows, so that there are several.
    vars(module)["CHUNK_BYTES"] = 1
    backward = source.program.backward
    assert backward is not None
    return Emitted(
        cascade=cascade,
        module=module,
        text=source.text,
        roles=tuple(kernel.role for kernel in source.program.kernels),
        saved=tuple(item.name for item in backward.saved),
        cotangents=backward.cotangents,
        targets=tuple(item.name for item in cascade.inputs if item.differentiable),
        rewritten=frozenset(name for name, notes in source.program.rewrites if any(note.applied for note in notes)),
    )


def as_cascade(variant: str | Cascade | Spec) -> Cascade:
    """A cascade from its text, or from a spec."""
    if isinstance(variant, Cascade):
        return variant
    return variant.cascade if isinstance(variant, Spec) else parse(variant)


def prepare(
    variant: str | Cascade | Spec,
    values: Mapping[str, Any],
    allocate: Allocate = not_a_number,
    rewrites: str | None = None,
    without: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
    divided: bool = False,
    one_walk: bool = False,
    alternates: frozenset[str] = frozenset(),
    precise_delta: bool | None = None,
    engine: bool = False,
) -> Emitted:
    """The module of a variant for values of these shapes, with the rewrites for their dtype, or for another one, but for some."""
    cascade = as_cascade(variant)
    extents = axis_extents(cascade, {name: tuple(getattr(value, "shape", ())) for name, value in values.items()})
    features = roles(cascade).features
    tiles_ = cuts({axis: extents[axis] for axis in features})
    model = next(values[item.name] for item in cascade.inputs if item.axes is not None and item.kind == "float")
    dtype = rewrites or str(model.dtype).removeprefix("torch.")
    return emitted(cascade, tiles_, dtype, allocate, without, asked, divided, one_walk, alternates, precise_delta, engine)


def tiles(resident: int = 64, streamed: int = 64) -> dict[str, dict[str, int]]:
    """One tile for all roles, rows by keys."""
    tile = {"BLOCK_M": resident, "BLOCK_N": streamed, "num_warps": 4, "num_stages": 1}
    passing = ("forward", "backward_statistics", "backward_rows", "backward_columns", "backward_pairs", "backward_fused")
    roles = (*passing, "backward_prepare", "backward_finish")
    found = {f"{role}{tail}": _fitting(role, tile) for role in roles for tail in ("", "_2", "_3")}
    return found | {"forward_parts": tile, "forward_merge": {"BLOCK_M": 1, "BLOCK_PART": 16, "num_warps": 4, "num_stages": 1}}


def _fitting(role: str, tile: dict[str, int]) -> dict[str, int]:
    """Without a streamed axis there is no block for it."""
    return {name: value for name, value in tile.items() if name != "BLOCK_N"} if role in ("backward_prepare", "backward_finish") else tile


def forward(kernels: Emitted, values: Mapping[str, Any], tile: Tiles) -> dict[str, Tensor]:
    """Outputs and saved steps by name."""
    inputs = [values[item.name] for item in kernels.cascade.inputs]
    names = list(dict.fromkeys((*kernels.cascade.outputs, *kernels.saved)))
    found = kernels.module.forward(*inputs, tile)
    return dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))


def divided(
    variant: str | Cascade | Spec,
    values: Mapping[str, Any],
    tile: Tiles,
    parts: int,
    allocate: Allocate = not_a_number,
    engine: bool = False,
) -> Results:
    """Outputs of the kernels whose programs share the stream, in so many parts."""
    kernels = prepare(variant, values, allocate, divided=True, engine=engine)
    found = kernels.module.forward(*(values[item.name] for item in kernels.cascade.inputs), tile, parts)
    named = dict(zip(kernels.cascade.outputs, found if isinstance(found, tuple) else (found,), strict=False))
    return Results(named, {})


def backward(
    kernels: Emitted,
    values: Mapping[str, Any],
    known: Mapping[str, Tensor],
    cotangents: Mapping[str, Tensor],
    tile: Tiles,
    needed: tuple[str, ...] | None = None,
) -> dict[str, Tensor]:
    """Gradients by input name.

    Args:
        known: result of `forward`.
        cotangents: by output name.
        needed: inputs whose gradients are wanted; all floating ones by default.
    """
    inputs = [values[item.name] for item in kernels.cascade.inputs]
    saved = [known[name] for name in kernels.saved]
    given = [cotangents[output] for output, _ in kernels.cotangents]
    wanted = {str(tensor_name(name)): name for name in (kernels.targets if needed is None else needed)}
    found = kernels.module.backward(*inputs, *saved, *given, tile, set(wanted))
    return {wanted[name]: value for name, value in found.items()}


def run(
    variant: str | Cascade | Spec,
    values: Mapping[str, Any],
    cotangents: Mapping[str, Tensor],
    tile: Tiles | None = None,
    allocate: Allocate = not_a_number,
    rewrites: str | None = None,
    without: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
    one_walk: bool = False,
    precise_delta: bool | None = None,
    engine: bool = False,
) -> Results:
    """Outputs and all gradients of the emitted kernels."""
    kernels = prepare(variant, values, allocate, rewrites, without, asked, one_walk=one_walk, precise_delta=precise_delta, engine=engine)
    tile = tiles() if tile is None else tile
    known = forward(kernels, values, tile)
    gradients = backward(kernels, values, known, cotangents, tile)
    return Results({name: known[name] for name in kernels.cascade.outputs}, gradients)


def expected(
    variant: str | Cascade | Spec,
    values: Mapping[str, Any],
    cotangents: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float64,
    rounding: torch.dtype | None = None,
) -> Results:
    """The same by the reference: float64, or the yardstick at another precision."""
    cascade = as_cascade(variant)
    targets = [item.name for item in cascade.inputs if item.differentiable]
    leaves = {name: values[name].detach().to(dtype).clone().requires_grad_() for name in targets}
    given_values = {**values, **leaves}
    steps = (
        reference(cascade, given_values, dtype)
        if dtype == torch.float64
        else interpret(cascade, given_values, Eager(dtype, _CPU, rounding))
    )
    outputs = [steps[name] for name in cascade.outputs]
    given = [cotangents[name].to(dtype).expand(value.shape) for name, value in zip(cascade.outputs, outputs, strict=True)]
    live = [(value, cotangent) for value, cotangent in zip(outputs, given, strict=True) if value.requires_grad]
    found = torch.autograd.grad([value for value, _ in live], list(leaves.values()), [given for _, given in live], allow_unused=True)
    gradients = {name: torch.zeros_like(leaves[name]) if grad is None else grad for name, grad in zip(targets, found, strict=True)}
    return Results({name: value.detach() for name, value in zip(cascade.outputs, outputs, strict=True)}, gradients)


def yardstick(variant: str | Cascade | Spec, values: Mapping[str, Any], cotangents: Mapping[str, Tensor], dtype: torch.dtype) -> Results:
    """The formula as PyTorch runs it in `dtype`: in fp32, every step but row statistics rounded."""
    return expected(variant, values, cotangents, torch.float32, None if dtype == torch.float32 else dtype)


_CPU = torch.device("cpu")


class Eager(TorchBackend):
    """Plain PyTorch: its logsumexp differentiates as `exp(x - lse)`, from the rounded result."""

    def reduce(self, array: Tensor, reduce: str, count: int) -> Tensor:
        if reduce != "logsumexp":
            return super().reduce(array, reduce, count)
        found: Tensor = _LogSumExp.apply(array, count)
        return found


class _LogSumExp(torch.autograd.Function):
    """torch.logsumexp, but for rows without any element, whose gradient is 0 and not NaN."""

    @staticmethod
    def forward(ctx: Any, array: Tensor, count: int) -> Tensor:
        result = torch.logsumexp(array, tuple(range(array.dim() - count, array.dim())))
        ctx.save_for_backward(array, result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        array, result = ctx.saved_tensors
        lift = (..., *(None,) * (array.dim() - result.dim()))
        weights = torch.exp(array - torch.where(result == float("-inf"), float("inf"), result)[lift])
        return grads[0][lift] * weights, None


# ---- comparison


def exact_to(found: Results, golden: Results, tolerance: float = 1e-12) -> None:
    """Every element within `tolerance` of the largest element; infinities and shapes equal, NaN nowhere."""
    for (name, value), (_, right) in zip(found.items(), golden.items(), strict=True):
        assert value.shape == right.shape, f"{name}: shape {tuple(value.shape)}, expected {tuple(right.shape)}"
        error, scale = _errors(name, value, right)
        assert error.max(initial=0.0) <= tolerance * max(scale.max(initial=0.0), 1.0), f"{name}: off by {error.max():.3e}"


def contract(found: Results, golden: Results, same_precision: Results, terms: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Error at most twice that of the same formula at the same precision, plus two units of roundoff: maximum and mean.

    A formula that overflows at this precision sets no limit: the kernel must be finite all the same.

    Args:
        terms: for results that are small differences of large terms, by name, maximum and mean of these terms. Roundoff counts from there.
    """
    _contract([found], [golden], [same_precision], terms or {}, 1)


def contract_of_draws(found: Sequence[Results], golden: Sequence[Results], same_precision: Sequence[Results]) -> None:
    """The same for kernels that ran on the first of several draws of values; limits come from all draws.

    The error of a single number, such as the gradient of a captured scalar, is chance: its mean over few draws is not compared.
    """
    _contract(found, golden, same_precision, {}, 32)


def _contract(
    found: Sequence[Results], golden: Sequence[Results], plain: Sequence[Results], terms: Mapping[str, tuple[float, float]], fewest: int
) -> None:
    mine, right, theirs = ([dict(item.items()) for item in results] for results in (found, golden, plain))
    pairs = [(values[name], exact[name]) for values, exact in zip(theirs, right, strict=True) for name in values]
    overflows = any(not value[exact.isfinite()].isfinite().all() for value, exact in pairs)
    for name in mine[0]:
        error, scale = _all_errors(name, mine, right)
        if overflows or error.size == 0:
            continue
        allowed, _ = _all_errors(name, theirs, right)
        unit = torch.finfo(mine[0][name].dtype).eps / 2
        for kind, term in zip(("max", "mean") if error.size >= fewest else ("max",), terms.get(name, (0.0, 0.0)), strict=False):
            off, limit, size = (float(getattr(array, kind)()) for array in (error, allowed, scale))
            bar = 2 * limit + 2 * unit * max(size, term)
            assert off <= bar, f"{name}: {kind} error {off:.3e}, {bar:.3e} allowed ({limit:.3e} at the same precision)"


def _all_errors(name: str, values: Sequence[Mapping[str, Tensor]], right: Sequence[Mapping[str, Tensor]]) -> tuple[Any, Any]:
    """Errors and absolute values of one result in as many draws as there are values."""
    parts = [_errors(name, value[name], exact[name]) for value, exact in zip(values, right, strict=False)]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _errors(name: str, value: Tensor, right: Tensor) -> tuple[Any, Any]:
    """Absolute errors and absolute values where the reference is finite; elsewhere both must agree."""
    value, right = value.detach().double(), right.detach().double()
    assert not value.isnan().any(), f"{name}: {int(value.isnan().sum())} of {value.numel()} elements are NaN"
    finite = right.isfinite()
    assert torch.equal(value[~finite], right[~finite]), f"{name}: not {right[~finite].unique().tolist()} where the reference is"
    assert value[finite].isfinite().all(), f"{name}: infinite where the reference is not"
    return (value[finite] - right[finite]).abs().numpy(), right[finite].abs().numpy()

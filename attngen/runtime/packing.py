"""Few queries whose heads share keys and values: pairs of position and head as rows, and how arguments and results are seen so.

Queries become rows by a copy of their few positions, by a view where there is one; keys and values stay as they are, and are read once for
a group of heads instead of once for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from attngen.errors import ArgumentError, MissingKernel
from attngen.frontend.spec import Argument, Capture, Spec
from attngen.ir.cascade import operand_of
from attngen.ir.packing import Packing
from attngen.pipeline import Program
from attngen.runtime.kernels import Kernels
from attngen.schedule.space import DECODE_TOKENS
from attngen.transform.canonicalize import canonicalize
from attngen.transform.layout.pack_gqa import pack, packed_axes


def in_rows(spec: Spec) -> Spec | None:
    """The variant with pairs of position and head as rows; None where no heads share what is streamed, or tokens have an order."""
    found = None if spec.order is not None else pack(canonicalize(spec.cascade))
    if found is None:
        return None
    cascade, packing = found
    captures = (*spec.captures, Capture(packing.number, 0))
    return replace(spec, cascade=cascade, packing=packing, captures=captures, reordered=None)


def few(queries: int) -> bool:
    """Whether a call has so few queries that they leave tiles empty."""
    return 0 < queries <= DECODE_TOKENS


def extents_in_rows(packing: Packing, extents: Mapping[str, int]) -> dict[str, int]:
    """The length of the axis of rows."""
    return {packing.rows: extents[packing.rows] * extents[packing.heads]}


def are_stored(kernels: Kernels, spec: Spec, dims: Mapping[str, int], extents: Mapping[str, int], tensors: Sequence[Tensor]) -> bool:
    """Whether strict mode has such kernels for a call; calls whose kernels were not stored go on without them."""
    names = [argument.name for argument in spec.arguments]
    model = tensors[names.index(operand_of(spec.cascade.inputs, kernels.program.features).name)]
    extents = extents if spec.packing is None else {**extents, **extents_in_rows(spec.packing, extents)}
    lengths = extents[kernels.program.streamed.resident], extents[kernels.program.streamed.streamed]
    try:
        kernels.at(str(model.dtype).removeprefix("torch.")).get(dims, model, lengths)
    except MissingKernel:
        return False
    return True


def group_of(packing: Packing, heads: int, kv_heads: int) -> tuple[str, int]:
    """The axis of the heads of a group, and how many of `heads` share one of `kv_heads`.

    Raises:
        ArgumentError: groups are not equal.
    """
    if kv_heads < 1 or heads % kv_heads:
        remedy = "The number of query heads must be a multiple of the number of key heads."
        raise ArgumentError(f"{heads} query heads for {kv_heads} key heads", remedy=remedy)
    return packing.heads, heads // kv_heads


def few_queries(spec: Spec, program: Program) -> tuple[str, ...]:
    """For `explain`: which calls have rows, and where these look."""
    packing = spec.packing
    if packing is None:
        return ()
    rows, number = packing.rows, packing.number
    return (
        f"rows are pairs of position and head of a group: row {rows} of position {rows} // {number} and head {rows} % {number}, for up to "
        f"{DECODE_TOKENS} queries",
        "of groups of several heads, where no gradient is asked for; keys and values are read once for a group",
        program.facts[0].visits,
    )


def as_rows(spec: Spec, packing: Packing, tensors: Sequence[Tensor], extents: Mapping[str, int]) -> list[Tensor]:
    """Arguments as the cascade has them, in the order of the call: positions, heads or both become rows."""
    arguments = {item.name for item in spec.cascade.inputs if item.axes is not None}
    return [
        _as_rows(tensor, _axes(argument), packing, extents) if argument.name in arguments else tensor
        for argument, tensor in zip(spec.arguments, tensors, strict=True)
    ]


def _as_rows(tensor: Tensor, axes: tuple[str, ...], packing: Packing, extents: Mapping[str, int]) -> Tensor:
    """What lacks positions or heads is the same for all of them."""
    if packing.rows not in axes and packing.heads not in axes:
        return tensor
    dim = packed_axes(axes, packing).index(packing.rows)
    if packing.heads not in axes:
        pairs = tensor.unsqueeze(dim + 1).expand(*tensor.shape[: dim + 1], extents[packing.heads], *tensor.shape[dim + 1 :])
    elif packing.rows not in axes:
        pairs = tensor.unsqueeze(dim).expand(*tensor.shape[:dim], extents[packing.rows], *tensor.shape[dim:])
    else:
        apart = [axis for axis in axes if axis != packing.heads]
        pairs = tensor.movedim(axes.index(packing.heads), len(axes) - 1).movedim(-1, apart.index(packing.rows) + 1)
    return pairs.flatten(dim, dim + 1)


def as_pairs(spec: Spec, packing: Packing, name: str, result: Tensor, extents: Mapping[str, int]) -> Tensor:
    """A result, which has both positions and heads, with them where the variant has them; as contiguous as every other result is."""
    axes = spec.cascade.axes(name)
    dim = axes.index(packing.rows)
    pairs = result.unflatten(dim, (extents[packing.rows], extents[packing.heads]))
    found = (*axes[: dim + 1], packing.heads, *axes[dim + 1 :])
    wanted = next(_axes(output) for output in spec.outputs if output.name == name)
    return pairs.permute([found.index(axis) for axis in wanted]).contiguous()


def _axes(argument: Argument) -> tuple[str, ...]:
    """One axis a dimension, with composite dimensions taken apart."""
    return tuple(axis for dim in argument.pattern for axis in dim)

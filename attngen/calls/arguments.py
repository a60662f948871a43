"""From the tensors of a call to tensors whose dimensions are the axes of the cascade, with every rule about them checked here, once.

Composite dimensions are split as views, heads and batches of length 1 are broadcast. Nothing is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attngen.errors import ArgumentError, DeviceMismatch, DtypeMismatch, ShapeMismatch
from attngen.frontend.spec import Argument, Pattern, Spec
from attngen.ir.cascade import Input, without_features

_log = logging.getLogger("attngen")
_PACKED = (
    "Nested tensors hold sequences of several lengths: put these behind one another, [1, H, sum of N, D], with a mask of which sequence a "
    "token is of, mask_mod=lambda b, h, q_idx, kv_idx: doc[q_idx] == doc[kv_idx]; or pad them."
)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def bind(spec: Spec, args: Sequence[object], kwargs: Mapping[str, object]) -> list[Tensor]:
    """The arguments of a call in the order of the spec.

    Raises:
        ArgumentError: one is missing, unknown, given twice or no tensor.
    """
    values = args if not kwargs and len(args) == len(spec.arguments) else _by_name(spec, args, kwargs)
    tensors: list[Tensor] = []
    for argument, value in zip(spec.arguments, values, strict=True):
        if not isinstance(value, Tensor):
            raise ArgumentError(f"{argument.name} is no tensor, but {type(value).__name__}", remedy="Numbers belong into the spec.")
        if value.is_nested or value.layout != torch.strided:
            kind, remedy = ("nested", _PACKED) if value.is_nested else (f"of layout {value.layout}", "Call .to_dense() before.")
            raise ArgumentError(f"{argument.name} is {kind}, and attention takes dense tensors", remedy=remedy)
        tensors.append(value)
    return tensors


def _by_name(spec: Spec, args: Sequence[object], kwargs: Mapping[str, object]) -> list[object]:
    """The values of a call in the order of the arguments."""
    names = [argument.name for argument in spec.arguments]
    remedy = f"It takes {', '.join(names)}."
    if len(args) > len(names):
        raise ArgumentError(f"{spec.name} takes {len(names)} tensors, got {len(args)}", remedy=remedy)
    given: dict[str, object] = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise ArgumentError(f"{spec.name} has no argument {name!r}", remedy=remedy)
        if name in given:
            raise ArgumentError(f"the argument {name} is given twice", remedy=remedy)
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise ArgumentError(f"missing argument{'s' if len(missing) > 1 else ''}: {', '.join(missing)}", remedy=remedy)
    return [given[name] for name in names]


def autocast(tensors: list[Tensor], spec: Spec, features: Sequence[str]) -> list[Tensor]:
    """Under autocast, floating arguments take its dtype, as for any matrix product; numbers without features stay float32."""
    kind = tensors[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    alone = {item.name for item in without_features(spec.cascade.inputs, features)}
    names = (argument.name for argument in spec.arguments)
    kept = [tensor.dtype == torch.float32 and name in alone for name, tensor in zip(names, tensors, strict=True)]
    castable = (tensor.is_floating_point() and tensor.dtype != torch.float64 for tensor in tensors)
    return [tensor.to(dtype) if cast and not keep else tensor for tensor, cast, keep in zip(tensors, castable, kept, strict=True)]


def is_symbolic(extents: Mapping[str, int]) -> bool:
    """Whether a call is only recorded, for lengths that may be symbols."""
    return torch.compiler.is_compiling() or any(isinstance(extent, torch.SymInt) for extent in extents.values())


def split(spec: Spec, tensors: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, int]]:
    """Views whose dimensions are single axes, and the extents.

    Raises:
        ShapeMismatch: wrong rank, or extents that contradict each other; both shapes are printed.
    """
    for argument, tensor in zip(spec.arguments, tensors, strict=True):
        if tensor.dim() != len(argument.pattern):
            raise ShapeMismatch(
                f"{argument.name} must have {len(argument.pattern)} dimensions {show(argument.pattern)}, got {tuple(tensor.shape)}",
                remedy=_shapes(spec, tensors),
            )
    extents = _extents(spec, tensors)
    views: list[Tensor] = []
    for argument, tensor in zip(spec.arguments, tensors, strict=True):
        views.append(_view(argument, tensor, extents, (spec, tensors)))
    return views, extents


def _extents(spec: Spec, tensors: Sequence[Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for argument, tensor in zip(spec.arguments, tensors, strict=True):
        for dim, size in zip(argument.pattern, tensor.shape, strict=True):
            if len(dim) == 1 and (dim[0] not in found or found[dim[0]] == 1):
                found[dim[0]] = size
    for argument, tensor in zip(spec.arguments, tensors, strict=True):
        for dim, size in zip(argument.pattern, tensor.shape, strict=True):
            unknown = [axis for axis in dim if axis not in found]
            if len(dim) == 1 or not unknown:
                continue
            known = 1
            for axis in dim:
                known *= found.get(axis, 1)
            if len(unknown) > 1 or (known and size % known) or (not known and size):
                raise ShapeMismatch(
                    f"dimension ({' '.join(dim)}) of {argument.name} has {size} positions, not a multiple of {known}",
                    remedy="The number of query heads must be a multiple of the number of key heads.",
                )
            found[unknown[0]] = size // known if known else 1
    return found


def _shapes(spec: Spec, tensors: Sequence[Tensor]) -> str:
    given = [
        f"{argument.name} {show(argument.pattern)} is {tuple(tensor.shape)}"
        for argument, tensor in zip(spec.arguments, tensors, strict=True)
    ]
    return f"Axes of one name have one length: {'; '.join(given)}."


def _view(argument: Argument, tensor: Tensor, extents: Mapping[str, int], call: tuple[Spec, Sequence[Tensor]]) -> Tensor:
    shape: list[int] = []
    target: list[int] = []
    for dim, size in zip(argument.pattern, tensor.shape, strict=True):
        wanted = [extents[axis] for axis in dim]
        total = 1
        for extent in wanted:
            total *= extent
        if size == total:
            shape += wanted
        elif size == 1 and _may_broadcast(call[0], dim):
            shape += [1] * len(dim)
        else:
            expected = ", ".join(str(extents[axis]) if len(d) == 1 else "*" for d in argument.pattern for axis in d[:1])
            raise ShapeMismatch(
                f"{argument.name} must have shape {show(argument.pattern)} = ({expected}), got {tuple(tensor.shape)}", remedy=_shapes(*call)
            )
        target += wanted
    return tensor.reshape(shape).expand(target) if shape != list(tensor.shape) or target != shape else tensor


def _may_broadcast(spec: Spec, dim: tuple[str, ...]) -> bool:
    """Batches and heads broadcast; sequences and features do not."""
    largest = max(spec.arguments, key=lambda argument: len(argument.pattern))
    inner = {axis for d in largest.pattern[-2:] for axis in d}
    return not inner & set(dim) and all(
        dim[0] not in d for argument in spec.arguments for d in argument.pattern[-2:] if len(argument.pattern) > 2
    )


def join(tensor: Tensor, pattern: Pattern) -> Tensor:
    """The inverse of the split for a result: composite dimensions flattened again, as a view."""
    shape: list[int] = []
    position = 0
    for dim in pattern:
        size = 1
        for _ in dim:
            size *= tensor.shape[position]
            position += 1
        shape.append(size)
    return tensor.view(shape) if shape != list(tensor.shape) else tensor


def show(pattern: Pattern) -> str:
    """[b, (g r), m, d]"""
    parts = [dim[0] if len(dim) == 1 else "(" + " ".join(dim) + ")" for dim in pattern]
    return f"[{', '.join(parts)}]"


def check_types(
    inputs: Sequence[Input], tensors: Sequence[Tensor], captures: Mapping[str, object], operand: str, singles: frozenset[str]
) -> None:
    """One floating dtype for all arguments with features, that or float32 for those without, the right kind for the others, one device.

    Args:
        inputs: the arguments of the cascade, with their `tensors`.
        captures: by name.
        operand: an argument with features. singles: those without.

    Raises:
        DtypeMismatch, DeviceMismatch
    """
    first, device = inputs[0].name, tensors[0].device
    dtypes = {item.name: tensor.dtype for item, tensor in zip(inputs, tensors, strict=True) if item.kind == "float"}
    for item, tensor in zip(inputs, tensors, strict=True):
        legal = DTYPES if item.kind == "float" else INTEGERS if item.kind == "int" else (torch.bool,)
        if tensor.dtype not in legal:
            raise DtypeMismatch(
                f"{item.name} has dtype {tensor.dtype}", remedy=f"Legal: {', '.join(str(dtype).removeprefix('torch.') for dtype in legal)}."
            )
        if tensor.device != device:
            raise DeviceMismatch(
                f"all arguments must be on one device: {first} is on {device}, {item.name} on {tensor.device}",
                remedy=f"Move {item.name} to {device}.",
            )
    wanted = dtypes[operand]
    for name, dtype in dtypes.items():
        if dtype != wanted and name not in singles:
            raise DtypeMismatch(
                f"all arguments with features must have one dtype: {operand} is {wanted}, {name} is {dtype}",
                remedy="Convert one of them, or call under torch.autocast.",
            )
        if dtype not in (wanted, torch.float32):
            raise DtypeMismatch(
                f"{name} is {dtype}, {operand} is {wanted}: an argument without features has the dtype of the others, or float32",
                remedy=f"Convert {name} to float32 or to {str(wanted).removeprefix('torch.')}.",
            )
    for name, value in captures.items():
        if isinstance(value, Tensor) and value.device != device and value.dim() > 0:
            raise DeviceMismatch(
                f"the captured tensor {name} is on {value.device}, the arguments are on {device}",
                remedy=f"Move {name} to {device} once, where it is made.",
            )


def contiguous_features(names: Sequence[str | None], tensors: Sequence[object], notice: set[str] | None) -> list[object]:
    """Copies of tensors that have a name here and whose last dimension is strided; everything else as it is. `notice` collects the
    names it was said of."""
    result: list[object] = []
    for name, tensor in zip(names, tensors, strict=True):
        if name is not None and isinstance(tensor, Tensor) and tensor.dim() > 0 and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            if notice is not None and name not in notice:
                notice.add(name)
                _log.warning("attngen: %s is not contiguous in its last dimension and is copied at each call.", name)
            tensor = tensor.contiguous()
        result.append(tensor)
    return result

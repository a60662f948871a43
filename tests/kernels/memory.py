"""Tensors in unfriendly memory: NaN on all sides, an unmapped page behind the last byte, odd strides, addresses beyond 2**31."""

from __future__ import annotations

import ctypes
import math
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attngen.analysis.axis_roles import roles
from tests.kernels.cases import Case

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_PRIVATE_ANONYMOUS_UNRESERVED = 0x02 | 0x20 | 0x4000
_FAILED = ctypes.c_void_p(-1).value
_NEVER_AN_INDEX = -(10**6)


def mapped(size: int, fence: bool = False) -> Any:
    """A zeroed buffer of `size` bytes, in memory only where it is touched; with `fence`, what lies behind its end is unmapped."""
    page = mmap.PAGESIZE
    whole = -(-size // page) * page
    base = _LIBC.mmap(None, whole + page, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_ANONYMOUS_UNRESERVED, -1, 0)
    if base in (None, _FAILED) or (fence and _LIBC.mprotect(base + whole, page, 0) != 0):
        raise MemoryError(f"cannot map {size} bytes")
    buffer = (ctypes.c_char * size).from_address(base + whole - size if fence else base)
    weakref.finalize(buffer, _LIBC.munmap, base, whole + page)
    return buffer


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * torch.empty((), dtype=dtype).element_size()


def poison(dtype: torch.dtype) -> float:
    """What no result may hold, and no number of a tile may be."""
    return float("nan") if dtype.is_floating_point else max(-(2**30), torch.iinfo(dtype).min)


def fenced_empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """`torch.empty` for emitted modules: full of poison, and nothing is mapped behind it."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mapped(_size(shape, dtype), fence=True), dtype=dtype).view(shape).fill_(poison(dtype))


def fenced(value: Tensor) -> Tensor:
    """A copy whose last element is the last one of mapped memory, with NaN between its rows and in front of them."""
    if 0 in value.shape:
        return value
    storage = torch.frombuffer(mapped(_size(_wider(value, 2), value.dtype), fence=True), dtype=value.dtype).view(_wider(value, 2))
    return _filled(storage, value, tuple(slice(2, None) for _ in value.shape))


def surrounded(value: Tensor) -> Tensor:
    """A copy that is a slice of a larger tensor of NaN in every dimension."""
    storage = torch.empty(_wider(value, 5), dtype=value.dtype)
    return _filled(storage, value, tuple(slice(2, -3) for _ in value.shape))


def _wider(value: Tensor, margin: int) -> tuple[int, ...]:
    return tuple(length + margin for length in value.shape)


def _filled(storage: Tensor, value: Tensor, place: tuple[slice, ...]) -> Tensor:
    storage.fill_(float("nan") if value.is_floating_point() else _NEVER_AN_INDEX)
    view = storage[place]
    view.copy_(value)
    return view


def positions_first(case: Case) -> Case:
    """A case stored as [batch, position, heads, feature]; what has no features lies transposed. Features stay side by side."""
    axes = {item.name: item.axes or () for item in case.cascade.inputs} | {name: case.cascade.axes(name) for name in case.cotangents}
    features = set(roles(case.cascade).features)

    def place(name: str, value: Any) -> Any:
        return _reordered(value, bool(features & set(axes[name]))) if isinstance(value, Tensor) else value

    values = {name: place(name, value) for name, value in case.values.items()}
    return Case(case.cascade, values, {name: place(name, value) for name, value in case.cotangents.items()})


def _reordered(value: Tensor, featured: bool) -> Tensor:
    """A copy with its last dimension but one in front of the heads, or in front of the batch where there are none."""
    if value.dim() < 2 + featured:
        return value
    if value.dim() > 3:
        order = (0, value.dim() - 2, *range(1, value.dim() - 2), value.dim() - 1)
    else:
        order = (1, 0, 2) if featured else (*range(1, value.dim()), 0)
    back = tuple(order.index(i) for i in range(value.dim()))
    return value.permute(order).contiguous().permute(back)


def expanded(value: Tensor) -> Tensor:
    """The first batch and the first head for all of them, by strides of 0; positions and features stay."""
    if value.dim() < 3:
        return value
    first = value[(slice(0, 1),) * (value.dim() - 2)]
    return first.expand(value.shape)


def stored(case: Case, how: Callable[[Tensor], Tensor]) -> Case:
    """A case whose tensors lie in memory as `how` makes them."""

    def place(value: Any) -> Any:
        return how(value) if isinstance(value, Tensor) else value

    return Case(case.cascade, {k: place(v) for k, v in case.values.items()}, {k: place(v) for k, v in case.cotangents.items()})


def virtual_empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """`torch.empty` that costs memory only where it is touched."""
    return torch.frombuffer(mapped(_size(shape, dtype)), dtype=dtype).view(shape)


def far(value: Tensor, dim: int, step: int = 0) -> Tensor:
    """A copy whose last position along `dim`, or the tile of 64 it is in, begins beyond 2**31 elements, or whose positions are `step`
    elements apart; other dimensions are packed."""
    last = value.shape[dim] - 1
    if last < 1:
        return value
    stride = step or -(-(2**31 + 7) // (last // 64 * 64 or last))
    packed = value.movedim(dim, 0).contiguous()
    rest = packed[0].numel()
    storage = virtual_empty((stride * (value.shape[dim] - 1) + rest,), value.dtype)
    view = storage.as_strided(packed.shape, (stride, *packed[0].stride())).movedim(0, dim)
    view.copy_(value)
    return view

"""What printed programs call: how the grid and the axes are cut, loads, masks, products, and the operations that torch spells otherwise.

Everything runs on the CPU. Values are in the accumulator type; tensors in memory have their own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from attngen.interpreter.torch_reference import TorchBackend

PAIRS = 2**19
"""Elements of a tile of pairs over all heads of a chunk: some of them fit into a cache of 2 to 8 MiB."""
BLOCK = 256
_WIDEST = 256
_ALIGNED = 16


# ---- cuts


def chunks(lengths: Sequence[int], summed: int, single: int, pair: tuple[int, int]) -> Iterator[tuple[slice, ...]]:
    """Slices of the axes of the grid that are computed at once.

    Args:
        lengths: of the axes of the grid, then of those that a program sums over, which stay whole.
        summed: the number of the latter.
        single: the place of an axis of which one position at a time is computed; -1 for none.
        pair: lengths of the parallel axis and of the loop axis.
    """
    whole = lengths[len(lengths) - summed :]
    left = PAIRS // max(min(pair[0], BLOCK) * min(pair[1], BLOCK) * math.prod(whole), 1)
    steps: list[int] = []
    for place, length in reversed([*enumerate(lengths[: len(lengths) - summed])]):
        step = 1 if place == single else max(min(length, left), 1)
        steps.insert(0, step)
        left //= step
        if step < length and place != single:
            left = 0  # heads of a chunk lie one behind the other
    cuts = [[slice(i, min(i + step, length)) for i in range(0, length, step)] for length, step in zip(lengths, steps, strict=False)]
    yield from product(*cuts, *([slice(0, length)] for length in whole))


def block(sizes: Sequence[int]) -> tuple[int, int]:
    """How long tiles are along the parallel axis and along the loop axis, for so many heads at once. Flat ones waste less on a diagonal."""
    side = max(min(math.isqrt(PAIRS // max(math.prod(sizes), 1)), _WIDEST), 16)
    return max(side // 2, 16), 2 * side


def tiles(begin: int, end: int, length: int) -> Iterator[slice]:
    """Slices of nearly equal length, `length` or somewhat more; inner ends are multiples of 16, which products are fastest with."""
    count = max(round((end - begin) / length), 1) if end > begin else 0
    first = begin
    for i in range(count):
        last = end if i == count - 1 else (begin + (end - begin) * (i + 1) // count) // _ALIGNED * _ALIGNED
        if last > first:
            yield slice(first, last)
            first = last


def loop_tiles(bounds: Sequence[Sequence[Any]], part: slice, length: int) -> Iterator[tuple[slice, bool]]:
    """Tiles of a loop axis, in order, and whether each is FULL.

    Args:
        bounds: for each piece where anything may be and where it is FULL; numbers, or tensors over the heads.
        part: of the axis that the program is for.
        length: of tiles.
    """
    done = part.start
    for may_lo, may_hi, must_lo, must_hi in bounds:
        begin, end = max(_least(may_lo), done), min(_most(may_hi), part.stop)
        full = max(_most(must_lo), begin), min(_least(must_hi), end)
        aligned = -(-full[0] // _ALIGNED) * _ALIGNED, full[1] // _ALIGNED * _ALIGNED
        full = full[0] if full[0] == begin else aligned[0], full[1] if full[1] == end else aligned[1]
        if full[1] - full[0] < length // 2:
            full = (begin, begin)  # a tile of its own would cost more than masks
        for first, last, is_full in ((begin, full[0], False), (*full, True), (full[1], end, False)):
            yield from ((tile, is_full) for tile in tiles(first, last, length))
        done = max(done, end)


def slice_of(number: int, count: int, length: int) -> slice:
    """One of the slices that split-KV cuts an axis into."""
    size = -(-length // max(count, 1))
    return slice(min(number * size, length), min((number + 1) * size, length))


def _least(bound: Any) -> int:
    return int(bound.min()) if isinstance(bound, Tensor) else int(bound)


def _most(bound: Any) -> int:
    return int(bound.max()) if isinstance(bound, Tensor) else int(bound)


_SCRATCHES = threading.local()


def scratch_of(dtype: torch.dtype) -> Scratch:
    """The scratch memory of this thread for a type: a few tiles, some 3 MiB each."""
    if not hasattr(_SCRATCHES, "of"):
        _SCRATCHES.of = {}
    known: dict[torch.dtype, Scratch] = _SCRATCHES.of
    return known.setdefault(dtype, Scratch(dtype))


def positions(at: slice) -> Tensor:
    """The positions of a slice."""
    return torch.arange(at.start, at.stop)


class Scratch:
    """Memory for tiles of pairs that is used again and again: fresh memory costs more than an operation on it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.buffers: dict[int, Tensor] = {}

    def __call__(self, number: int, shape: tuple[int, ...]) -> Tensor:
        """A tensor of a shape in one of the buffers."""
        size = math.prod(shape)
        if number not in self.buffers or self.buffers[number].numel() < size:
            self.buffers[number] = torch.empty(size, dtype=self.dtype)
        return self.buffers[number][:size].view(shape)


# ---- loads and products


def gather(tensor: Tensor, *at: Any) -> Tensor:
    """Elements at computed positions; one that lies outside belongs to no element that is needed."""
    if tensor.numel() == 0:
        shape = torch.broadcast_shapes(*(place.shape for place in at if isinstance(place, Tensor)))
        return tensor.new_zeros(shape)
    places = [_inside(place, size) for place, size in zip(at, tensor.shape, strict=True)]
    return tensor[tuple(places)]


def _inside(place: Any, size: int) -> Any:
    if isinstance(place, Tensor):
        return place.clamp(-size, size - 1)
    return min(max(int(place), -size), size - 1)


def matrix(tensor: Tensor, order: Sequence[int], batch: int, rows: int) -> Tensor:
    """A tensor as a batch of matrices: its dimensions in an order, the first `batch` and the next `rows` of them as one each."""
    whole = tensor.permute(*order) if list(order) != sorted(order) else tensor
    shape = whole.shape
    return whole.reshape(math.prod(shape[:batch]), math.prod(shape[batch : batch + rows]), math.prod(shape[batch + rows :]))


def dot(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """The product of two batches of matrices, written into a tensor whose dimensions flatten to those of the result."""
    torch.bmm(left, right, out=out.view(left.shape[0], left.shape[1], right.shape[2]))
    return out


def add_dot(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The same, added to what the tensor holds."""
    flat = total.view(left.shape[0], left.shape[1], right.shape[2])
    torch.baddbmm(flat, left, right, out=flat)
    return total


# ---- masks


_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}


def bits(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A truth tile as words of the size of a type: all bits where it holds, else none."""
    return mask.to(_WORDS[dtype]).neg_()


def lowest(words: Tensor) -> Tensor:
    """The bits of minus infinity where a mask does not hold, none where it does."""
    dtype = torch.float32 if words.dtype == torch.int32 else torch.float64
    return words.bitwise_not().bitwise_and_(torch.tensor(float("-inf"), dtype=dtype).view(words.dtype))


def keep(tile: Tensor, words: Tensor, missing: Tensor | None = None) -> Tensor:
    """Sets a tile to 0, or to what else the bits of `missing` say, in place, where a mask does not hold, whatever is there."""
    held = tile.view(words.dtype).bitwise_and_(words)
    if missing is not None:
        held.bitwise_or_(missing)
    return tile


# ---- operations


def exp_scaled(x: Tensor, scale: float, row: Tensor, out: Tensor) -> Tensor:
    """exp(x * scale - row), written into `out`: the product and the difference have one rounding."""
    torch.add(row.neg(), x, alpha=scale, out=out)
    return out.exp_()


def safe_div(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    empty = b == 0
    if not empty.any():
        return a / b
    return (a / b.masked_fill(empty, 1)).masked_fill_(empty, 0)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, rounded to a narrower type."""
    return x.to(dtype).to(x.dtype)


_POINTWISE = TorchBackend(torch.float64).pointwise
floordiv = _POINTWISE["floordiv"]
mod = _POINTWISE["mod"]
int_pow = _POINTWISE["int_pow"]
clamp = _POINTWISE["clamp"]
clamp_min = _POINTWISE["clamp_min"]
clamp_max = _POINTWISE["clamp_max"]
hardtanh = _POINTWISE["hardtanh"]
softplus = _POINTWISE["softplus"]
relu = _POINTWISE["relu"]
gelu = _POINTWISE["gelu"]
gelu_tanh = _POINTWISE["gelu_tanh"]
float16 = _POINTWISE["float16"]
bfloat16 = _POINTWISE["bfloat16"]
random_bits = _POINTWISE["random_bits"]


def power(a: float, b: float) -> float:
    """a ** b of numbers, infinite or NaN where Python raises."""
    try:
        return float(a) ** b
    except (OverflowError, ZeroDivisionError):
        return float(number("pow", a, b))


def number(op: str, *args: bool | int | float) -> bool | int | float:
    """An operation on numbers that Python has no operator for, or one that raises."""
    whole = all(isinstance(arg, int) for arg in args) and op in ("floordiv", "mod", "int_pow", "sign", "relu")
    found = _POINTWISE[op](*(torch.tensor(arg, dtype=torch.int64 if whole else torch.float64) for arg in args))
    return found.item()


# ---- gradients of pairs


def scatter(target: Tensor, at: Sequence[Any], value: Tensor, mask: Tensor | None) -> None:
    """Writes a tile into a tensor at computed positions, each its own, where a mask holds."""
    places = torch.broadcast_tensors(*(torch.as_tensor(place) for place in at), value)[:-1]
    if mask is not None:
        chosen = mask.expand(value.shape)
        places, value = tuple(place[chosen] for place in places), value[chosen]
    if value.numel():
        target.index_put_(tuple(places), value.to(target.dtype))


def scatter_keys(at: Sequence[Any], sizes: Sequence[int], mask: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Positions within some dimensions of a tensor as one number each, -1 where a mask does not hold or that lie outside."""
    found = torch.zeros(tuple(shape), dtype=torch.int64)
    inside = torch.ones(tuple(shape), dtype=torch.bool) if mask is None else mask
    for place, size in zip(at, sizes, strict=True):
        whole = torch.as_tensor(place)
        whole = torch.where(whole < 0, whole + size, whole)
        found, inside = found * size + whole, inside & (whole >= 0) & (whole < size)
    return torch.where(inside, found, -1)

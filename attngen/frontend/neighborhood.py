"""Tokens on a row-major grid of one or more dimensions, and neighborhood attention.

    attngen.grid(8, 32, 32).neighborhood((3, 7, 7), causal=(True, False, False))

A query attends to the `window` nearest positions along each axis. At the borders the window is shifted instead of clipped, so that every
query has the same number of keys. With a dilation it takes every `dilation`-th position, within the query's own residue class. Along a
causal axis it ends at the query and is clipped at the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attngen.errors import ArgumentError
from attngen.frontend.token_order import Order


@dataclass(frozen=True)
class Grid:
    """The lengths of the axes, the last one contiguous."""

    lengths: tuple[int, ...]

    def coordinates(self, index: Any) -> tuple[Any, ...]:
        """The coordinate of a token along each axis."""
        found: list[Any] = []
        stride = 1
        for length in reversed(self.lengths):
            place = index // stride if stride > 1 else index
            found.append(place % length if len(found) + 1 < len(self.lengths) else place)
            stride *= length
        return tuple(reversed(found))

    def neighborhood(
        self, window: int | Sequence[int], *, dilation: int | Sequence[int] = 1, causal: bool | Sequence[bool] = False
    ) -> Neighborhood:
        """A mask mod over tokens of this grid.

        Args:
            window: keys along each axis, or one number for all of them.
            dilation: the distance between them.
            causal: whether a query attends to its own position and earlier ones only.

        Returns:
            `(b, h, q_idx, kv_idx) -> bool`, for as many queries and keys as the grid has tokens. `compile` may permute the tokens
            (`order`) where that is predicted to be faster and no score mod reads positions.

        Raises:
            ArgumentError: a value for an axis is missing or illegal, or a window does not fit its axis.
        """
        windows, steps = self._each("window", window), self._each("dilation", dilation)
        for length, size, step in zip(self.lengths, windows, steps, strict=True):
            if size < 1 or step < 1 or size * step > length:
                raise ArgumentError(
                    f"a window of {size} with dilation {step} does not fit an axis of {length}",
                    remedy="window * dilation is at most the length of the axis, and both are at least 1.",
                )
        return Neighborhood(self, windows, steps, self._each("causal", causal))

    def order(self, tile: int | Sequence[int] | None = None, *, dilation: int | Sequence[int] = 1) -> Order:
        """A permutation that keeps neighbours together, for `attngen.attention(order=)`.

        Args:
            tile: lengths of consecutive tiles, row-major inside; by default about 64 tokens.
            dilation: along each axis; tokens of one residue class are consecutive and tiled among themselves.

        Raises:
            ArgumentError: a value for an axis is missing or illegal.
        """
        steps = self._each("dilation", dilation)
        sizes = self._tile(steps) if tile is None else self._each("tile", tile)
        if min(*steps, *sizes) < 1:
            raise ArgumentError(f"tiles of {sizes} with dilation {steps}", remedy="All are at least 1.")
        places = self.coordinates(np.arange(math.prod(self.lengths)))
        remainders = [place % step for place, step in zip(places, steps, strict=True)]
        reduced = [place // step for place, step in zip(places, steps, strict=True)]
        tiles = [place // size for place, size in zip(reduced, sizes, strict=True)]
        # The last key of lexsort is the primary one; tokens of one tile keep their order.
        order = np.lexsort((*reversed(tiles), *reversed(remainders)))
        apart = "" if max(steps) == 1 else f" of equal remainders by {'x'.join(map(str, steps))}"
        return Order(torch.from_numpy(order.astype(np.int32)), f"in tiles of {'x'.join(map(str, sizes))}{apart}")

    def _tile(self, steps: Sequence[int]) -> tuple[int, ...]:
        """About equal powers of two with a product of 64 tokens, the shorter ones first."""
        sizes = [1] * len(self.lengths)
        while math.prod(sizes) < _TILE_TOKENS:
            room = [i for i, size in enumerate(sizes) if 2 * size * steps[i] <= self.lengths[i]]
            if not room:
                break
            sizes[min(reversed(room), key=lambda i: sizes[i])] *= 2
        return tuple(sizes)

    def _each(self, name: str, value: Any) -> tuple[Any, ...]:
        """One value for each axis."""
        if not isinstance(value, int) and (not isinstance(value, Sequence) or not all(isinstance(item, int) for item in value)):
            raise ArgumentError(f"{name} is {value!r}", remedy="Give an integer, or one for each axis.")
        values = (value,) * len(self.lengths) if isinstance(value, int) else tuple(value)
        if len(values) != len(self.lengths):
            raise ArgumentError(f"{name} has {len(values)} entries for {len(self.lengths)} axes", remedy="Give one, or one for each axis.")
        return values


@dataclass(frozen=True)
class Neighborhood:
    """A mask mod: whether a key lies in the window of a query on a grid."""

    __name__ = "neighborhood"
    grid: Grid
    window: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]

    def __call__(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        allowed: Any = None
        places = zip(self.grid.coordinates(q_idx), self.grid.coordinates(kv_idx), strict=True)
        for (q, k), axis in zip(places, self._axes(), strict=True):
            near = _near(q, k, *axis)
            allowed = near if allowed is None else allowed & near
        return allowed

    def order(self) -> Order:
        """The token permutation for this window."""
        return self.grid.order(dilation=self.dilation)

    def visited_pairs(self, order: Order | None = None) -> int:
        """Pairs in tiles of 128 queries and 64 keys that may hold a neighbour, by the bounding box of each tile."""
        places = self.grid.coordinates(np.arange(math.prod(self.grid.lengths)) if order is None else order.places.numpy().astype(np.int64))
        near: Any = True
        for place, (length, window, step, causal) in zip(places, self._axes(), strict=True):
            (first, last), (least, most) = _boxes(place, 128), _boxes(place, 64)
            reach = window * step
            lo = first - reach + 1 if causal else np.clip(first - reach // 2 - step, 0, length - reach)
            hi = last if causal else np.clip(last + reach // 2 + step, reach - 1, length - 1)
            near = near & (least[None, :] <= hi[:, None]) & (most[None, :] >= lo[:, None])
            if step > 1:
                near = near & _share_residue(place % step, step)
        return int(near.sum()) * 128 * 64

    def _axes(self) -> Iterator[tuple[int, int, int, bool]]:
        return zip(self.grid.lengths, self.window, self.dilation, self.causal, strict=True)


_TILE_TOKENS = 64


def _boxes(place: Any, tile: int) -> tuple[Any, Any]:
    """The smallest and largest coordinate of each tile of tokens."""
    starts = np.arange(0, len(place), tile)
    return np.minimum.reduceat(place, starts), np.maximum.reduceat(place, starts)


def _share_residue(remainder: Any, step: int) -> Any:
    """Whether a tile of 128 queries and one of 64 keys share a residue class."""
    hold = [
        np.stack([np.logical_or.reduceat(remainder == r, np.arange(0, len(remainder), tile)) for r in range(step)]) for tile in (128, 64)
    ]
    return np.einsum("rq,rk->qk", *(held.astype(np.float32) for held in hold)) > 0


def _near(q: Any, k: Any, length: int, window: int, step: int, causal: bool) -> Any:
    """Whether one coordinate is in the neighbourhood of another."""
    place, other = (q, k) if step == 1 else (q // step, k // step)
    if causal:
        inside = (other <= place) & (place - other < window)
    else:
        # Positions in the residue class of the query; the first classes may have one more.
        count: Any = length if step == 1 else (length - 1 - q % step) // step + 1
        first = place - window // 2
        first = torch.where(first < 0, 0, first)
        first = torch.where(first < count - window, first, count - window)
        inside = (other >= first) & (other < first + window)
    return inside if step == 1 else inside & (q % step == k % step)


def grid(*lengths: int) -> Grid:
    """A row-major grid of tokens: `grid(h, w)`, `grid(t, h, w)`.

    Raises:
        ArgumentError: no axis, or an empty one.
    """
    if not lengths or any(length < 1 for length in lengths):
        raise ArgumentError(f"grid{lengths} has no tokens", remedy="Give the length of each axis, all at least 1.")
    return Grid(tuple(lengths))

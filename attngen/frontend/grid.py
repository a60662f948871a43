"""Tokens on a grid of one or more dimensions, laid out row by row, and the neighbourhoods that they attend to.

    attngen.grid(8, 32, 32).neighborhood((3, 7, 7), causal=(True, False, False))

The meaning is that of neighborhood attention: a query attends to the `window` nearest positions along each axis. At the borders the window
moves inside instead of being cut off, so that every query has as many keys. With a dilation it takes every `dilation`-th position, within
the positions of the query's own remainder. Along a causal axis it ends at the query, and is cut off at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attngen.errors import ArgumentError

Mask = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Grid:
    """The lengths of its axes, the last one running fastest."""

    lengths: tuple[int, ...]

    def coordinates(self, index: Any) -> tuple[Any, ...]:
        """Where a token lies along each axis."""
        found: list[Any] = []
        stride = 1
        for length in reversed(self.lengths):
            place = index // stride if stride > 1 else index
            found.append(place % length if len(found) + 1 < len(self.lengths) else place)
            stride *= length
        return tuple(reversed(found))

    def neighborhood(
        self, window: int | Sequence[int], *, dilation: int | Sequence[int] = 1, causal: bool | Sequence[bool] = False
    ) -> Mask:
        """A mask mod over tokens of this grid.

        Args:
            window: keys along each axis, or one number for all of them.
            dilation: the distance between them.
            causal: whether a query attends to its own position and earlier ones only.

        Returns:
            `(b, h, q_idx, kv_idx) -> bool`, for as many queries and keys as the grid has tokens.

        Raises:
            ArgumentError: a number an axis is missing or illegal, or a window does not fit its axis.
        """
        windows, steps = self._each("window", window), self._each("dilation", dilation)
        ordered = self._each("causal", causal)
        for length, size, step in zip(self.lengths, windows, steps, strict=True):
            if size < 1 or step < 1 or size * step > length:
                raise ArgumentError(
                    f"a window of {size} with dilation {step} does not fit an axis of {length}",
                    remedy="window * dilation is at most the length of the axis, and both are at least 1.",
                )
        axes = tuple(zip(self.lengths, windows, steps, ordered, strict=True))

        def neighborhood(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            allowed: Any = None
            for q, k, axis in zip(self.coordinates(q_idx), self.coordinates(kv_idx), axes, strict=True):
                near = _near(q, k, *axis)
                allowed = near if allowed is None else allowed & near
            return allowed

        return neighborhood

    def _each(self, name: str, value: Any) -> tuple[Any, ...]:
        """One value for each axis."""
        values = (value,) * len(self.lengths) if isinstance(value, int) else tuple(value)
        if len(values) != len(self.lengths):
            raise ArgumentError(f"{name} has {len(values)} entries for {len(self.lengths)} axes", remedy="Give one, or one for each axis.")
        return values


def _near(q: Any, k: Any, length: int, window: int, step: int, causal: bool) -> Any:
    """Whether one coordinate is in the neighbourhood of another."""
    place, other = (q, k) if step == 1 else (q // step, k // step)
    if causal:
        inside = (other <= place) & (place - other < window)
    else:
        # Positions with the remainder of the query; those of the first remainders may be one more.
        count: Any = length if step == 1 else (length - 1 - q % step) // step + 1
        first = place - window // 2
        first = torch.where(first < 0, 0, first)
        first = torch.where(first < count - window, first, count - window)
        inside = (other >= first) & (other < first + window)
    return inside if step == 1 else inside & (q % step == k % step)


def grid(*lengths: int) -> Grid:
    """Tokens that lie on a grid row by row: `grid(h, w)`, `grid(t, h, w)`.

    Raises:
        ArgumentError: no axis, or one without positions.
    """
    if not lengths or any(length < 1 for length in lengths):
        raise ArgumentError(f"grid{lengths} has no tokens", remedy="Give the length of each axis, all at least 1.")
    return Grid(tuple(lengths))

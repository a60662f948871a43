"""Residue classes of token positions, for dilated masks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Classes:
    """Tokens grouped by the remainder of their position.

    Attributes:
        divisor: number of classes; position p is element p // divisor of class p % divisor.
        axes: the two sequence axes, resident and streamed.
        axis: the axis of the classes.
        length: name of the input that holds the number of keys.
    """

    divisor: int
    axes: tuple[str, str]
    axis: str
    length: str

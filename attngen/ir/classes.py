"""How tokens fall into classes of equal remainder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Classes:
    """How tokens fall into classes.

    Attributes:
        divisor: their number; position p is in class p % divisor, at p // divisor.
        axes: the two sequence axes, resident and streamed.
        axis: of the classes.
        length: the input that tells how many keys there are.
    """

    divisor: int
    axes: tuple[str, str]
    axis: str
    length: str

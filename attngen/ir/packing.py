"""How the heads of a group become rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packing:
    """How pairs of a query's position and a head of its group become rows.

    Attributes:
        rows: the resident axis; row i is position i // number, head i % number, so that positions never decrease along rows.
        heads: the axis of the heads of a group, which is no axis afterwards.
        number: the input that tells how many heads a group has.
    """

    rows: str
    heads: str
    number: str

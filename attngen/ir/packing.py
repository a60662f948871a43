"""GQA packing: the query heads of a group as rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packing:
    """Query positions and heads of a group packed into one row axis.

    Attributes:
        rows: the resident axis; row i is position i // number of head i % number, so positions do not decrease along rows.
        heads: the axis of the heads of a group, which packing removes.
        number: name of the input that holds the group size.
    """

    rows: str
    heads: str
    number: str

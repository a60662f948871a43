"""Token permutations: an order of the tokens in which those that attend to each other are close.

Mods see the original positions; only the tiles change. In row-major order, a tile of a two-dimensional grid attends to keys in every row of
its window; in tiles of 8 x 8, to a few tiles. A window dilated by d is dense when tokens of one residue class modulo d are consecutive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attngen.errors import ArgumentError, ShapeMismatch


@dataclass(frozen=True, eq=False)
class Order:
    """A permutation of tokens.

    Attributes:
        places: int32 [N]; the token that comes i-th is the one at `places[i]`.
        note: its origin, for `explain`.
        axes: of queries and of keys.
        inverse: int32 [N], the new position of each token.
    """

    places: Tensor
    note: str = "as given"
    axes: tuple[str, str] = ("m", "n")
    inverse: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inverse", torch.argsort(self.places).to(torch.int32))

    def check(self, *lengths: int) -> None:
        """Check the lengths of a call.

        Raises:
            ShapeMismatch: the order is for another length.
        """
        for length in lengths:
            if length != len(self.places):
                raise ShapeMismatch(
                    f"the order is of {len(self.places)} tokens, and the call has {length}", remedy="Make one for this length."
                )


def as_order(value: object) -> Order:
    """A user's order.

    Raises:
        ArgumentError: it is no permutation.
    """
    if isinstance(value, Order):
        return value
    if not isinstance(value, Tensor) or value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise ArgumentError("order is no tensor of positions", remedy="Pass integers [N]: order[i] is the token that comes i-th.")
    places = value.detach().to("cpu", torch.int64)
    if not torch.equal(places.sort().values, torch.arange(len(places))):
        raise ArgumentError(f"order is no permutation of {len(places)} tokens", remedy="Every position occurs exactly once.")
    return Order(places.to(torch.int32))

"""The seed of a call to a variant with dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attngen.calls.arguments import INTEGERS
from attngen.errors import ArgumentError
from attngen.frontend.spec import Spec

_INT64 = range(-(2**63), 2**63)


def seed_on(device: torch.device, given: int | Tensor | None) -> Tensor:
    """The seed, an int64 tensor without dimensions on the device of the arguments.

    One that is not given is drawn there from PyTorch's generator, without waiting for the device: `torch.manual_seed`, checkpoints of
    activations and graphs of launches treat it as any other random tensor.

    Raises:
        ArgumentError: the given one is no integer of 64 bits.
    """
    if given is None:
        return torch.randint(_INT64[-1], (), device=device)
    if isinstance(given, Tensor):
        if given.dim() == 0 and given.dtype in INTEGERS:
            return given.to(device, torch.int64)
        raise ArgumentError(f"the seed has shape {tuple(given.shape)} and dtype {given.dtype}", remedy="Pass a 0-d tensor of integers.")
    if type(given) is bool or not isinstance(given, int) or given not in _INT64:
        raise ArgumentError(f"the seed is {given!r}", remedy="Pass an integer of 64 bits, or a 0-d tensor of one.")
    return torch.full((), given, dtype=torch.int64, device=device)


def drawn(spec: Spec, given: int | Tensor | None, asked: bool, device: torch.device) -> Tensor | None:
    """The seed of a call; None where nothing is dropped.

    Raises:
        ArgumentError: a variant without dropout is given a seed, or asked for one.
    """
    if spec.seed is not None:
        return seed_on(device, given)
    if asked or given is not None:
        raise ArgumentError(f"{spec.name} drops nothing: it takes no seed and has none", remedy="Leave seed and return_seed out.")
    return None


def followed(result: Any, seed: Tensor | None) -> tuple[Any, ...]:
    """Results of a call with its seed behind them."""
    return (*result, seed) if isinstance(result, tuple) else (result, seed)

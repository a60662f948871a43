"""The devices of the arguments of calls: which target one is, and captured values brought there."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attngen import target as targets


class Follower:
    """Brings captured numbers, which are 0-d tensors, to the device of the arguments: once for each value they have."""

    def __init__(self) -> None:
        self._moved: dict[tuple[int, torch.device], tuple[int, Tensor]] = {}

    def on(self, value: Tensor | bool | int, device: torch.device) -> Any:
        """The value there; numbers that are no tensors and what is there already stay as they are."""
        if not isinstance(value, Tensor) or value.device == device:
            return value
        if torch.compiler.is_compiling() or value.requires_grad or value.is_inference():
            return value.to(device)
        key, version = (id(value), device), value._version  # pyright: ignore[reportPrivateUsage]
        if key not in self._moved or self._moved[key][0] != version:
            self._moved[key] = version, value.to(device)
        return self._moved[key][1]


@cache
def target_of(device: torch.device) -> targets.Target:
    """The target that a GPU is."""
    if torch.version.hip is not None:
        return targets.get(torch.cuda.get_device_properties(device).gcnArchName.split(":")[0])
    return targets.from_capability(*torch.cuda.get_device_capability(device))

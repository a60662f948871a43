"""The devices of the arguments of calls: which target one is, and captured values brought there."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attngen.errors import ArchMismatch
from attngen.targets import table as targets

_MOST = 64
"""Values that are remembered at once; a captured number may be another one at each call."""


class Follower:
    """Brings captured numbers, which are 0-d tensors, to the device of the arguments: once for each value they have."""

    def __init__(self) -> None:
        self._moved: dict[tuple[int, torch.device], tuple[Tensor, int, Tensor]] = {}

    def on(self, value: Tensor | bool | int, device: torch.device) -> Any:
        """The value there; numbers that are no tensors and what is there already stay as they are."""
        if not isinstance(value, Tensor) or value.device == device:
            return value
        if torch.compiler.is_compiling() or value.requires_grad or value.is_inference():
            return value.to(device)
        key, version = (id(value), device), value._version  # pyright: ignore[reportPrivateUsage]
        known = self._moved.get(key)
        # The value is held along: another tensor may take its number once it is gone.
        if known is not None and known[0] is value and known[1] == version:
            return known[2]
        if len(self._moved) >= _MOST:
            self._moved.clear()
        moved = value.to(device)
        self._moved[key] = value, version, moved
        return moved


@cache
def target_of(device: torch.device) -> targets.Target:
    """The target that a GPU is."""
    if torch.version.hip is not None:
        return targets.get(torch.cuda.get_device_properties(device).gcnArchName.split(":")[0])
    return targets.from_capability(*torch.cuda.get_device_capability(device))


def target_for(device: torch.device, arch: str | None, *, interpret: bool) -> targets.Target:
    """The target that schedules are for: the one asked for, else the device's, and sm90's for the CPU.

    Args:
        device: of the tensors.
        arch: the one asked for.
        interpret: kernels run in Triton's interpreter.

    Raises:
        ArchMismatch: tensors live on a device of another architecture than the one asked for.
    """
    if device.type != "cuda" or interpret:
        return targets.get(arch or "sm90")
    here = target_of(device)
    if arch is not None and here.name != arch:
        raise ArchMismatch(
            f"compiled for {arch}, but the tensors are on {device}, which is {here.name}",
            remedy=f'Compile with arch="{here.name}", or arch=None for the device of the tensors.',
        )
    return here


def multiprocessors(target: targets.Target, device: torch.device) -> int:
    """Those of the device; of the part that a target names where the device is no GPU."""
    return _multiprocessors(device) if device.type == "cuda" else target.sms


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count

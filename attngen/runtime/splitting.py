"""Few queries whose programs would leave a device idle: their stream is divided into parts (`transform.splitting`).

Whether it is, and into how many parts, is decided call by call from lengths; kernels take the number as an argument and stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch

from attngen.frontend.spec import Spec
from attngen.kernel.partition import Kernel
from attngen.knobs import Knobs
from attngen.pipeline import analyse
from attngen.runtime.kernels import Kernels
from attngen.runtime.options import Options
from attngen.runtime.packing import extents_in_rows, few, in_rows
from attngen.schedule.cost.time import REFERENCE
from attngen.schedule.space import DECODE_TOKENS
from attngen.schedule.split_count import PART_KEYS, WAVES, part_count
from attngen.schedule.tile_schedule import DTYPE_BYTES
from attngen.stages.observe import watching
from attngen.targets.table import Target

_TALL_ROWS = 128
"""Rows of a tile, at most, where there are more than a few."""
_SHOWN_KEYS = (2048, 8192, 32768, 131072)


def is_divided(spec: Spec, kernels: Kernels, extents: Mapping[str, int], device: torch.device) -> bool:
    """Whether the stream of a call without gradients is divided.

    Args:
        spec: the variant; its heads may be in rows.
        kernels: of it, undivided.
        extents: lengths of the axes of arguments.
        device: of the arguments.
    """
    kernel = kernels.program.kernels[0]
    if spec.classes is not None or not few(extents[kernel.resident]) or not may_divide(kernel):
        return False
    extents = extents if spec.packing is None else {**extents, **extents_in_rows(spec.packing, extents)}
    if not {*kernel.grid, kernel.streamed or ""} <= extents.keys():
        # Captured tensors alone have such an axis.
        return False
    rows = DECODE_TOKENS if extents[kernel.resident] <= DECODE_TOKENS else _TALL_ROWS
    return parts_of(kernel, extents, rows, multiprocessors(kernels.target(device), device)) > 1


def may_divide(kernel: Kernel) -> bool:
    """Whether all results have the axes of the grid, along which parts store what they carry."""
    return all(set(kernel.grid) <= set(kernel.axes(name)) for name in kernel.outputs)


def parts_of(kernel: Kernel, extents: Mapping[str, int], rows: int, sms: int) -> int:
    """Parts of the stream of a forward kernel, divided or not, for lengths and rows of a tile."""
    heads = math.prod(extents[axis] for axis in kernel.grid if axis != kernel.split_axis)
    return part_count(heads * -(-extents[kernel.resident] // rows), extents[kernel.streamed or ""], sms)


def multiprocessors(target: Target, device: torch.device) -> int:
    """Those of the device; of the part that a target names where the device is no GPU."""
    return _multiprocessors(device) if device.type == "cuda" else target.sms


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def kernels_of_few(spec: Spec, arch: str | None) -> Kernels:
    """The kernels of a variant for few queries: heads in rows where they share keys, keys in parts."""
    rows = in_rows(spec) or spec
    knobs = Knobs.from_env()
    program = analyse(rows.cascade, watching(knobs), wanted=frozenset(), divided=True)
    return Kernels(program, rows.name, Options(arch, gradients=False, divided=True), knobs)


def parts_of_calls(kernels: Kernels, target: Target, dims: Mapping[str, int], dtype: str) -> tuple[str, ...]:
    """For `explain`: what is divided, into how many parts, what these leave behind, and tiles.

    Args:
        kernels: whose stream is divided, for the dtype of the arguments, given by its short name.
        target: of the kernels. dims: lengths of the feature axes.
    """
    kernel, merge = kernels.program.kernels
    states = [item for item in merge.inputs if item.name in kernel.outputs]
    names = ", ".join(item.name.removesuffix("_parts") for item in states)
    numbers = sum(math.prod(dims[axis] for axis in item.axes or () if axis in dims) for item in states)
    shown = [f"{part_count(8, keys, target.sms)} of {keys}" for keys in _SHOWN_KEYS]
    choice = kernels.choice(dims, dtype, target, REFERENCE["decode"][1:])
    return (
        f"{kernel.streamed} in parts where programs would leave multiprocessors idle, with no gradient asked for: up to {WAVES} programs "
        "for each,",
        f"parts of {PART_KEYS} keys or more; 8 programs on {target.name} ({target.sms}) have {', '.join(shown)} keys",
        f"{kernel.role} stores {names}, {numbers * max(4, DTYPE_BYTES[dtype])} B a row and part; {merge.role} makes them one",
        *choice.heads(),
    )

"""Split-KV: for few queries whose CTAs would leave a device idle, each CTA handles a slice of the keys (`kernel.split_kv`).

Whether a call is split, and how often, is decided from its lengths; kernels take the number of splits as an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attngen.kernel.partition import Kernel
from attngen.plan.packed_gqa import few
from attngen.plan.programs import Programs
from attngen.schedule.choose import Choice
from attngen.schedule.space import DECODE_TOKENS
from attngen.schedule.split_count import PART_KEYS, WAVES, part_count
from attngen.schedule.tile_schedule import DTYPE_BYTES
from attngen.targets.table import Target

_TALL_ROWS = 128
"""Rows of a tile, at most, where there are more than a few."""
_SHOWN_KEYS = (2048, 8192, 32768, 131072)


def may_split(programs: Programs) -> bool:
    """Whether all results have the axes of the grid, along which slices store what they carry."""
    cascade = programs.start.cascade
    return all(set(programs.grid) <= set(cascade.axes(name)) for name in cascade.outputs)


def is_split(programs: Programs, extents: Mapping[str, int], queries: int, sms: int) -> bool:
    """Whether a call without gradients is split.

    Args:
        programs: of its token layout.
        extents: lengths of the axes of that layout.
        queries: of the call; with packed heads there are more rows.
        sms: multiprocessors of the device.
    """
    axes = programs.axes
    given = {axis for item in programs.start.cascade.inputs for axis in item.axes or ()}
    # Captured tensors alone may have an axis of keys.
    if not few(queries) or not may_split(programs) or not {*programs.grid, axes.streamed} <= given:
        return False
    rows = DECODE_TOKENS if extents[axes.resident] <= DECODE_TOKENS else _TALL_ROWS
    return num_splits(programs, extents, rows, sms) > 1


def num_splits(programs: Programs, extents: Mapping[str, int], rows: int, sms: int) -> int:
    """Slices of the keys.

    Args:
        programs: of the token layout. extents: lengths of its axes.
        rows: of a tile. sms: multiprocessors of the device.
    """
    axes = programs.axes
    heads = math.prod(extents[axis] for axis in programs.grid)
    return part_count(heads * -(-extents[axes.resident] // rows), extents[axes.streamed], sms)


def describe_splits(kernels: Sequence[Kernel], choice: Choice, target: Target, dims: Mapping[str, int], dtype: str) -> tuple[str, ...]:
    """For `explain`: what is split, into how many slices, what these leave behind, and tiles.

    Args:
        kernels: of the split program. choice: their tiles.
        target: where they run. dims: lengths of the feature axes. dtype: of the arguments, by its short name.
    """
    kernel, merge = kernels
    states = [item for item in merge.inputs if item.name in kernel.outputs]
    names = ", ".join(item.name.removesuffix("_parts") for item in states)
    numbers = sum(math.prod(dims[axis] for axis in item.axes or () if axis in dims) for item in states)
    shown = [f"{part_count(8, keys, target.sms)} of {keys}" for keys in _SHOWN_KEYS]
    return (
        f"split-KV where CTAs would leave multiprocessors idle, without gradients: {kernel.streamed} in up to {WAVES} waves of slices,",
        f"{PART_KEYS} keys or more each; 8 CTAs on {target.name} ({target.sms} SMs) have {', '.join(shown)} keys",
        f"{kernel.role} stores {names}, {numbers * max(4, DTYPE_BYTES[dtype])} B a row and slice; {merge.role} combines them",
        *choice.heads(),
    )

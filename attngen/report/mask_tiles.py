"""Which tiles a mask makes the kernels visit, counted by running the emitted bounds on the CPU.

Takes the kernels of a program, gives one `MaskTiles` a kernel that streams. The bounds are the very functions that the kernels call, run
in the interpreter for all tiles of a head at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch

from attngen.emit.identifiers import tensor_name
from attngen.emit.kernel_text import Lowered
from attngen.emit.params import Param
from attngen.emit.segments import Segments, bound_names, segments_of
from attngen.emit.tile_list import NARROW_TILES
from attngen.errors import ArgumentError, InternalError
from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Read, kind_of
from attngen.ir.traverse import free_axes, names_read
from attngen.kernel.partition import Kernel
from attngen.pipeline import Program
from attngen.plan.dilated import Dilated
from attngen.plan.token_layout import TokenLayout
from attngen.runtime.kernels import Kernels, Loaded
from attngen.schedule.choose import Request
from attngen.schedule.space import length_class
from attngen.targets import table as targets

EMPTY_TILE, PARTIAL_TILE, FULL_TILE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class MaskTiles:
    """The tiles of one kernel over all batches and heads that the mask tells apart.

    Attributes:
        role: of the kernel.
        block_m, block_n: queries and keys of a tile.
        full, partial, empty: tiles visited without masks, with masks, and not at all.
        setup_bytes: device memory that is filled before the kernel runs: the list of its tiles, or where documents lie.
        segments_max: runs of visited tiles of one class, at most, for one resident tile.
        classes: [heads, tiles along queries, tiles along keys] of 0 for empty, 1 for partial and 2 for full ones; heads are the batches,
            heads and classes of equal remainder that the mask tells apart.
        divisor: tokens of equal remainder by it are tiled among themselves; 1 where they are tiled as they come.
    """

    role: str
    block_m: int
    block_n: int
    full: int
    partial: int
    empty: int
    segments_max: int
    setup_bytes: int
    classes: np.ndarray[Any, np.dtype[np.int8]] = field(compare=False, repr=False)
    divisor: int = 1

    @property
    def executed_pairs(self) -> int:
        """Positions in visited tiles, those beyond the last query or key included."""
        return (self.full + self.partial) * self.block_m * self.block_n

    def as_dict(self) -> dict[str, Any]:
        """The figures, without the classes."""
        return {name: value for name, value in asdict(self).items() if name != "classes"}


def mask_tiles(
    kernels: Kernels, layout: TokenLayout, captures: Mapping[str, Any], features: Mapping[str, int], dtype: str, extents: Mapping[str, int]
) -> tuple[MaskTiles, ...]:
    """Count the tiles of every kernel that streams.

    Args:
        kernels: of the variant for the dtype.
        layout: of its tokens.
        captures: values of the captured inputs, on the CPU.
        features: lengths of the feature axes, which tiles depend on.
        dtype: of the arguments, by its short name; tiles depend on it too.
        extents: lengths of the user's axes but features.
    """
    program = kernels.program
    lengths = layout.extents(extents)
    length = length_class(lengths[program.streamed.resident], lengths[program.streamed.streamed])
    request = Request(tuple(features.items()), dtype, targets.get(kernels.arch or "sm90"), length)
    source, loaded = kernels.source(features), kernels.loaded_for(request, "interpreted")
    derived, divisor = dict(captures), layout.dilation.divisor if isinstance(layout, Dilated) else 1
    for kernel in program.kernels:
        for runs in kernel.document_extents:
            derived |= zip(runs.names, loaded.module.runs(derived[runs.values], derived[runs.keys]), strict=True)
    listings = {kernel.tile_list_of: (kernel, lowered) for kernel, lowered in source.lowered if kernel.tile_list_of}
    walked = [
        (listings.get(kernel.role, (kernel, lowered)), segments_of(source.program.facts_of(kernel.role)), kernel)
        for kernel, lowered in source.lowered
        if not kernel.tile_list_of
    ]
    return tuple(
        _Walk(kernel, bounding, segments, loaded, derived, {**features, **lengths}, program.streamed.resident).count(divisor)
        for bounding, segments, kernel in walked
        if segments is not None
    )


def lengths_of(program: Program, sizes: tuple[int, int, int, int], group: tuple[str, int] | None) -> dict[str, int]:
    """The length of every axis but features, of batches, query heads, queries and keys as `mask_tiles` takes them."""
    batch, heads, queries, keys = sizes
    grid, axes = program.kernels[0].grid, program.streamed
    found = dict(zip(grid, (batch, heads if group is None else heads // group[1], *[1] * len(grid)), strict=False))
    return found | {axes.resident: queries, axes.streamed: keys} | dict([] if group is None else [group])


class _Walk:
    """The tiles of one kernel for given lengths and captures. `bounding` is the kernel itself, or the one that lists its tiles."""

    def __init__(
        self,
        kernel: Kernel,
        bounding: tuple[Kernel, Lowered],
        segments: Segments,
        loaded: Loaded,
        captures: Mapping[str, Any],
        lengths: Mapping[str, int],
        rows: str,
    ) -> None:
        self.kernel, self.segments, self.loaded = kernel, segments, loaded
        self.bounding, self.lowered = bounding
        self.captures, self.lengths, self.rows = captures, lengths, rows
        tiles = loaded.tiles[kernel.role]
        self.block = tiles[f"BLOCK_{kernel.resident.upper()}"]
        self.stream_block = tiles[f"BLOCK_{segments.ranges.stream.upper()}"]
        self.first = np.arange(0, lengths[kernel.resident], self.block)
        self.last = np.minimum(self.first + self.block, lengths[kernel.resident]) - 1
        self.heads = (*kernel.grid, *kernel.loops)

    def count(self, divisor: int) -> MaskTiles:
        predicates = (self.kernel.may_mask, self.kernel.must_mask)
        missing = [
            item.name for item in self.kernel.inputs if item.axes is not None and any(item.name in names_read(p) for p in predicates)
        ]
        if missing:
            raise ArgumentError(
                f"the mask reads the argument {', '.join(missing)}", remedy="Capture the tensor in the mask to count tiles."
            )
        if self.segments.listed:
            told_apart, classes = list(self.bounding.grid), self.listed()
        else:
            told_apart = [axis for axis in self.heads if any(axis in self.axes_of(expr) for _, expr in self.lowered.limits.values)]
            points = [dict(zip(told_apart, point, strict=True)) for point in product(*(range(self.lengths[axis]) for axis in told_apart))]
            classes = np.stack([self.classes(point) for point in points])
        alike = math.prod(self.lengths[axis] for axis in self.heads if axis not in told_apart)
        full, partial, empty = (int((classes == kind).sum()) * alike for kind in (FULL_TILE, PARTIAL_TILE, EMPTY_TILE))
        changes = (np.diff(classes, axis=2, prepend=EMPTY_TILE) != 0) & (classes != EMPTY_TILE)
        by_rows = self.kernel.resident == self.rows
        return MaskTiles(
            role=self.kernel.role,
            block_m=self.block if by_rows else self.stream_block,
            block_n=self.stream_block if by_rows else self.block,
            full=full,
            partial=partial,
            empty=empty,
            setup_bytes=self.setup_bytes(),
            divisor=divisor,
            segments_max=int(changes.sum(axis=2).max(initial=0)),
            classes=classes if by_rows else classes.swapaxes(1, 2),
        )

    def setup_bytes(self) -> int:
        derived = sum(4 * self.captures[name].numel() for runs in self.kernel.document_extents for name in runs.names)
        if not self.segments.listed:
            return derived
        rows = len(self.first) * math.prod(self.lengths[axis] for axis in self.bounding.grid)
        tiles = math.ceil(self.lengths[self.segments.ranges.stream] / self.stream_block)
        return derived + rows * (2 * 4 + tiles * (2 if tiles <= NARROW_TILES else 4))

    def listed(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        """The same for all heads, from the lists that the listing kernel writes."""
        heads = [self.lengths[axis] for axis in self.bounding.grid]
        streamed = -(-self.lengths[self.segments.ranges.stream] // self.stream_block)
        number = torch.int16 if streamed <= NARROW_TILES else torch.int32
        lists = torch.full((*heads, len(self.first), streamed), -1, dtype=number)
        counts = torch.full((*heads, len(self.first), 2), -1, dtype=torch.int32)
        tile = self.loaded.module.plain(self.loaded.tiles[self.kernel.role])
        from attngen.interpreter.triton_api import tl

        constants = {"DTYPE": tl.float32, "ACC": tl.float32}
        launched = getattr(self.loaded.module, self.lowered.context.name)[(counts.numel() // 2,)]
        launched(*(self.argument(param, lists, counts) for param in self.lowered.params), **constants, **tile)
        result = np.zeros((counts.numel() // 2, streamed), np.int8)
        for row, (tiles, (full, masked)) in enumerate(zip(lists.view(-1, streamed).tolist(), counts.view(-1, 2).tolist(), strict=True)):
            result[row, tiles[:full]] = FULL_TILE
            result[row, tiles[streamed - masked :]] = PARTIAL_TILE
        return result.reshape(-1, len(self.first), streamed)

    def argument(self, param: Param, lists: torch.Tensor, counts: torch.Tensor) -> Any:
        """A run-time parameter of the listing kernel."""
        if param.kind == "length":
            return self.lengths[param.axis]
        if param.memory != "tensor":
            return lists if param.memory == "tile_list" else counts
        value = next((self.captures[item.name] for item in self.bounding.inputs if tensor_name(item.name) == param.tensor), None)
        if value is None or param.kind == "bound":
            raise InternalError(f"{self.lowered.context.name} has an unknown parameter {param.name}")
        if param.kind == "stride":
            return value.stride(param.dim)
        return value.size(param.dim) if param.kind == "size" else value

    def classes(self, point: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.int8]]:
        """[resident tiles, streamed tiles], from the bounds of the full and the masked loop."""
        starts = np.arange(0, self.lengths[self.segments.ranges.stream], self.stream_block)[None, :]
        result = np.zeros((len(self.first), starts.shape[1]), np.int8)
        for bounds in self.bounds(point):
            at = {name: np.broadcast_to(bound, self.first.shape)[:, None] for name, bound in bounds.items()}
            full_begin = at.get("full_begin", at["begin"])
            full_end = at.get("full_end", full_begin + at.get("full_length", 0))
            result[(starts >= at["begin"]) & (starts < at["end"])] = PARTIAL_TILE
            result[(starts >= full_begin) & (starts < full_end)] = FULL_TILE
        return result

    def bounds(self, point: Mapping[str, int]) -> list[dict[str, Any]]:
        """The bounds of each piece by name, for every resident tile."""
        length = self.lengths[self.segments.ranges.stream]
        if self.lowered.limits.function is None:
            return [{"begin": 0, "full_end": length // self.stream_block * self.stream_block, "end": length}]
        from attngen.interpreter.interpreter import call  # not above: counting is asked for, importing this module is not

        function = getattr(self.loaded.module, self.lowered.limits.function.name)
        found = call(function, [self.value(expr, point) for _, expr in self.lowered.limits.values], self.stream_block)
        names = bound_names(self.segments)
        size = len(names) // len(self.segments.ranges.pieces)
        return [dict(zip(names, found[start : start + size], strict=False)) for start in range(0, len(names), size)]

    # ---- what the bounds are computed from

    def value(self, expr: Expr, point: Mapping[str, int]) -> Any:
        """A parameter of the bounds: one number, or one for each resident tile."""
        over = dict(self.segments.ranges.over)
        match expr:
            case Read(tensor=name, at=()) if name == f"first_{self.kernel.resident}":
                return self.first
            case Read(tensor=name, at=()) if name == f"last_{self.kernel.resident}":
                return self.last
            case Read(tensor=name, at=()) if name in over:
                reduce = np.minimum if over[name].which == "least" else np.maximum
                return reduce.reduceat(self.evaluated(over[name].read, point), self.first)
            case _:
                return self.evaluated(expr, point)

    def evaluated(self, expr: Expr, point: Mapping[str, int]) -> Any:
        """An integer expression at a head: a number, or one for each resident position."""
        axes = free_axes(expr)
        sizes = {f"along_{axis}": torch.zeros(length) for axis, length in self.lengths.items()}
        inputs = (
            *(Input(f"along_{axis}", (axis,), 1) for axis in self.lengths),
            *(item for item in self.kernel.inputs if item.axes is None),
        )
        step = Einsum("value", axes, build.apply("to_float", expr))
        found = reference(Cascade(inputs, (step,), ("value",)), {**sizes, **self.captures})["value"]
        here = found[tuple(point[axis] if axis in point else slice(None) for axis in axes)]
        return here.to({"float": torch.float64, "int": torch.int64, "bool": torch.bool}[kind_of(expr)]).numpy()

    def axes_of(self, expr: Expr) -> tuple[str, ...]:
        over = dict(self.segments.ranges.over)
        return free_axes(over[expr.tensor].read) if isinstance(expr, Read) and expr.tensor in over else free_axes(expr)

"""The host side of gradients that share elements: a buffer for a chunk of rows, and what is added up from it after each launch.

tiles_dtable = torch.zeros(...)             by pairs, or skewed, where diagonals are columns
keys_dtable = torch.full(..., -1)           where they belong, -1 for pairs that no kernel visits
launch(...)
add_by_key(dtable, tiles_dtable, keys_dtable)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.params import Param, result
from attngen.kernel.partition import Kernel
from attngen.kernel.scatter import Scatter, plain_axes


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer of one chunk: its name, its axes of the grid, its type and what it begins as; `skewed` ones have diagonals as columns."""

    name: str
    grid: tuple[str, ...]
    dtype: str
    fill: str
    skewed: bool


def buffers(kernel: Kernel) -> Iterator[tuple[Scatter, Buffer, Buffer]]:
    """For each gradient in chunks the buffers of its tiles and of their keys."""
    for item in kernel.scatters:
        if item.form != "stored":
            step = tensor_name(item.step)
            grid = tuple(axis for axis in kernel.axes(item.step) if axis not in (kernel.resident, kernel.streamed))
            kept = tuple(axis for axis in grid if axis not in item.column_axes)
            wide = f"torch.int32 if {step}.numel() < 2**31 else torch.int64"
            skewed = item.form == "diagonals"
            tiles, keys = (param.tensor for param in buffers_of(item))
            yield item, Buffer(tiles, grid, "accumulator", "0", skewed), Buffer(keys, kept, wide, "-1", skewed)


def buffers_of(item: Scatter) -> tuple[Param, Param]:
    """The pointers to the buffers of a gradient in chunks: to its tiles, and to their keys."""
    step = tensor_name(item.step)
    return result(Code(f"tiles_{step}"), "gradient_tiles"), result(Code(f"keys_{step}"), "gradient_keys")


def begin(kernel: Kernel) -> list[Code]:
    """How many rows a chunk has, so that its buffers stay small."""
    resident, streamed = f"len_{kernel.resident}", f"len_{kernel.streamed}"
    elements: list[str] = []
    for _, *pair in buffers(kernel):
        for buffer in pair:
            wide = f"({resident} + {streamed})" if buffer.skewed else streamed
            elements.append(" * ".join((*(f"len_{axis}" for axis in buffer.grid), wide)))
    return [
        Code(f"row_elements = {' + '.join(elements)}"),
        Code(f'chunk_rows = rows_at_once(row_elements * accumulator.itemsize, tile["BLOCK_{kernel.resident.upper()}"])'),
    ]


def chunk(kernel: Kernel, model: str) -> list[Code]:
    """Statements before a launch: the rows of the chunk, its buffers."""
    resident = f"len_{kernel.resident}"
    lines = [f"chunk_end = min(chunk_begin + chunk_rows, {resident})", "chunk = chunk_end - chunk_begin"]
    for _, *pair in buffers(kernel):
        lines += [line for buffer in pair for line in _allocated(buffer, f"len_{kernel.streamed}", model)]
    return [Code(line) for line in lines]


def _allocated(buffer: Buffer, stream: str, model: str) -> list[str]:
    last = f"chunk + {stream} - 1" if buffer.skewed else stream
    shape = ", ".join((*(f"len_{axis}" for axis in buffer.grid), "chunk", last))
    lines = [f"shape = ({shape})"]
    name = f"{buffer.name}_skewed" if buffer.skewed else buffer.name
    dtype = buffer.dtype
    if " " in dtype:
        lines.append(f"dtype = {dtype}")
        dtype = "dtype"
    lines.append(f"{name} = torch.full(shape, {buffer.fill}, dtype={dtype}, device={model}.device)")
    return [*lines, f"{buffer.name} = by_rows({name})"] if buffer.skewed else lines


def added(kernel: Kernel) -> list[Code]:
    """Statements after a launch: what the chunk adds to each gradient."""
    lines: list[Code] = []
    for item, tiles, keys in buffers(kernel):
        passing = ("diagonal",) if tiles.skewed else (kernel.resident, kernel.streamed or "")
        axes = (*tiles.grid, *passing)
        order = [axes.index(axis) for axis in (*keys.grid, *passing, *item.column_axes)]
        values, positions = (f"{tiles.name}_skewed.sum(-2)", f"{keys.name}_skewed.amax(-2)") if tiles.skewed else (tiles.name, keys.name)
        if order != sorted(order):
            values += f".permute({', '.join(map(str, order))})"
        lines.append(Code(f"add_by_key({_total(item)}, {len(item.keys)}, {values}, {positions})"))
    return lines


def _total(item: Scatter) -> str:
    """The gradient with its keys in front, and as many columns as there are heads: the tensor may have more."""
    order = (*item.keys, *item.columns)
    text = str(tensor_name(item.step))
    if order != tuple(sorted(order)):
        text += f".permute({', '.join(map(str, order))})"
    counts = [" * ".join(f"len_{axis}" for axis in plain_axes(item.at[i])) for i in item.columns]
    return f"{text}[{', '.join((*(':' for _ in item.keys), *(f': {count}' for count in counts)))}]" if counts else text

"""Tensors whose positions may lie so far apart that the offsets inside of a tile leave 32 bits: such a one is copied by the host."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from attngen.emit.identifiers import Code, tensor_name
from attngen.ir.traverse import free_axes, reads
from attngen.kernel.partition import Kernel


def near_lines(kernels: Iterable[Kernel], names: Collection[str]) -> tuple[Code, ...]:
    """Statements that bring tensors near, each with the dimensions along which tiles of them lie.

    Args:
        kernels: that take them.
        names: of tensors that may lie anywhere in memory.
    """
    found: dict[str, set[int]] = {}
    for kernel in kernels:
        pair = {kernel.resident, kernel.streamed}
        exprs = [expr for step in kernel.steps for expr in (step.body, step.where)]
        for read in (read for expr in (*exprs, kernel.may_mask, kernel.must_mask) for read in reads(expr)):
            if read.tensor in names:
                found.setdefault(read.tensor, set()).update(i for i, at in enumerate(read.at) if pair & set(free_axes(at)))
    near = {tensor_name(name): ", ".join(map(str, sorted(dims))) for name, dims in found.items() if dims}
    return tuple(Code(f"{name} = near({name}, tiles, {dims})") for name, dims in sorted(near.items()))

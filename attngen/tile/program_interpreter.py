"""The reference interpreter of tile programs: runs one tile by tile in NumPy, in float64. It defines what the statements mean.

Takes a program, a value for each input and the length of each axis; gives the value of each output. A tile of the parallel axis is one
program, and tiles of the loop axis follow each other from the first position to the last. The other axes are whole, as dimensions of
arrays, but for those of the grid that decide which tiles are visited: each of their positions is a program of its own.

A tile is visited by one of two rules. By "masks": where `visited` holds somewhere, and it is FULL where every mask in use holds everywhere.
By "ranges": where it meets the bounds of a piece, and it is FULL within those that a piece has for that. In a FULL tile no
statement of `masks` is run. The last tiles are as long as what is left, so that nothing behind an axis is read; a computed position outside
of a tensor gives NaN (0 for integers). Operands of a dot are not rounded. Of scatters only the form "stored" is known, since the others
write buffers that the host sums.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from attngen.analysis.affine import FIRST, LAST
from attngen.errors import InternalError
from attngen.ir.eval.interpret import operand_kind
from attngen.ir.eval.numpy_backend import NumpyBackend
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Kind, Offset, Read, Start
from attngen.ir.traverse import once_a_node
from attngen.tile.nodes import Axes, Dot, Let, Load, Loop, Reduce, Scatter, Select, Statement, Store, TileProgram

Array = Any
Visits = Literal["masks", "ranges"]
Span = tuple[int, int]
"""Positions of a tile along an axis: the first, and one past the last."""

_ARRAYS = NumpyBackend()
_REDUCTIONS = {"sum": np.sum, "max": np.max, "min": np.min, "any": np.any}


def interpret(
    program: TileProgram,
    values: Mapping[str, Any],
    extents: Mapping[str, int],
    tile: tuple[int, int] | None = None,
    outputs: Mapping[str, Array] | None = None,
    visits: Visits = "masks",
) -> dict[str, Array]:
    """The value of each output.

    Args:
        program: to run.
        values: an array or a number for each input, by name; others are ignored.
        extents: the length of each axis, that of parts included.
        tile: positions of a tile along the parallel and the loop axis; None for whole axes.
        outputs: what outputs hold before. If None, NaN, and 0 in what is added or scattered to.
        visits: how it is known which tiles are visited, and which are FULL.

    Raises:
        InternalError: a scatter has another form than "stored".
    """
    memory = {item.name: _ARRAYS.array(values[item.name], item.kind) for item in program.params if not item.output}
    partly = {item.tensor: item for item in program.statements if isinstance(item, Scatter) or (isinstance(item, Store) and item.adds)}
    for item in program.params:
        if not item.output:
            continue
        writer = partly.get(item.name)
        shape = memory[writer.target].shape if isinstance(writer, Scatter) else tuple(extents[axis] for axis in item.axes or ())
        before = (np.nan if item.name not in partly else 0.0) if outputs is None else outputs[item.name]
        memory[item.name] = np.array(np.broadcast_to(before, shape), dtype=np.float64 if item.kind == "float" else None)
    rows, columns = (0, 0) if tile is None else tile
    for spans in _programs(program, extents, rows, visits):
        _Tile(program, memory, extents, spans).run(columns, visits)
    return {item.name: memory[item.name] for item in program.params if item.output}


def _programs(program: TileProgram, extents: Mapping[str, int], rows: int, visits: Visits) -> Iterator[dict[str, Span]]:
    """The positions that each program has along each axis but the loop axis."""
    apart = {program.split}
    if program.loop is not None and visits == "ranges":
        bounds = {name for piece in program.loop.bounds for name in piece}
        apart |= {axis for item in program.prologue if not isinstance(item, Store | Scatter) and item.name in bounds for axis in item.axes}
    elif program.loop is not None:
        apart |= {axis for item in program.loop.masks for axis in _axes(item)}
    ones = [axis for axis in program.grid if axis in apart]
    whole = {axis: (0, length) for axis, length in extents.items()}
    choices = [*(_cut(whole[axis], 1) for axis in ones), _cut(whole[program.parallel], rows)]
    for spans in itertools.product(*choices):
        yield {**whole, **dict(zip((*ones, program.parallel), spans, strict=True))}


def _cut(span: Span, size: int) -> list[Span]:
    """A span in tiles; one tile for a size of 0."""
    first, end = span
    return [(start, min(start + size, end)) for start in range(first, end, size)] if size else [span] * (first < end)


def _axes(item: Statement) -> Axes:
    return () if isinstance(item, Store | Scatter) else item.axes


@dataclass(slots=True)
class _Tile:
    """One program at work. `known` has the axes and the array of each value; an array has one dimension for each of the axes."""

    program: TileProgram
    memory: dict[str, Array]
    extents: Mapping[str, int]
    spans: dict[str, Span]
    known: dict[str, tuple[Axes, Array]] = field(default_factory=dict[str, "tuple[Axes, Array]"])
    full: bool = False

    def run(self, columns: int, visits: Visits) -> None:
        rows = self.spans[self.program.parallel]
        self.known |= {FIRST.tensor: ((), np.asarray(rows[0])), LAST.tensor: ((), np.asarray(rows[1] - 1))}
        self.all(self.program.prologue)
        if self.program.loop is not None:
            self.loop(self.program.loop, columns, visits)
        self.all(self.program.epilogue)

    # ---- the loop

    def loop(self, loop: Loop, columns: int, visits: Visits) -> None:
        carried = {item.name: (item.axes, self.whole(item.init, item.axes)) for item in loop.carried}
        before = dict(self.known)
        for span in _cut(self.slice(loop.axis), columns):
            self.spans[loop.axis], self.known = span, {**before, **carried}
            if not self.enter(loop, visits):
                continue
            self.all(loop.body)
            carried = {item.name: (item.axes, self.value(item.next, item.axes)) for item in loop.carried}
        self.known, self.full = {**before, **carried}, False

    def slice(self, axis: str) -> Span:
        """Positions of the loop axis that the program goes over."""
        length = self.extents[axis]
        if not self.program.split:
            return 0, length
        size = -(-length // self.extents[self.program.split])
        part = self.spans[self.program.split][0]
        return min(part * size, length), min((part + 1) * size, length)

    def enter(self, loop: Loop, visits: Visits) -> bool:
        """Whether the tile is visited; masks are known then, unless it is FULL."""
        if visits == "ranges" and loop.bounds:
            visited, self.full = self.ranged(loop)
            if visited and not self.full:
                self.all(loop.masks)
            return visited
        self.full = False
        self.all(loop.masks)
        used = {item.mask for item in loop.body if isinstance(item, Select | Scatter) and item.mask}
        self.full = all(name in self.known and bool(np.all(self.known[name][1])) for name in used)
        return not loop.visited or bool(np.any(self.known[loop.visited][1]))

    def ranged(self, loop: Loop) -> tuple[bool, bool]:
        """Whether the tile meets the bounds of a piece, and lies within those where a piece is FULL."""
        space = (*self.program.grid, *self.program.summed)
        start, stop = self.spans[loop.axis]
        pieces = [[self.aligned(name, space) for name in piece] for piece in loop.bounds]
        visited = any(bool(np.any(np.maximum(lo, start) < np.minimum(hi, stop))) for lo, hi, _, _ in pieces)
        return visited, any(bool(np.all((lo <= start) & (stop <= hi))) for _, _, lo, hi in pieces)

    # ---- statements

    def all(self, statements: tuple[Statement, ...]) -> None:
        for item in statements:
            if isinstance(item, Store | Scatter):
                self.write(item)
            else:
                with np.errstate(all="ignore"):
                    self.known[item.name] = item.axes, self.made(item)

    def made(self, item: Let | Load | Dot | Reduce | Select) -> Array:
        match item:
            case Let(axes=axes, body=body):
                return self.whole(body, axes)
            case Load(axes=axes, tensor=tensor, at=at, kind=kind):
                return self.whole(Read(tensor, at, kind), axes)
            case Dot(axes=axes, left=left, right=right, over=over, add=add):
                letters = dict(zip((*axes, *over), string.ascii_letters, strict=False))
                terms = ["".join(letters[axis] for axis in self.known[name][0]) for name in (left, right)]
                subscripts = f"{','.join(terms)}->{''.join(letters[axis] for axis in axes)}"
                found = np.einsum(subscripts, self.known[left][1], self.known[right][1])
                return found + self.value(add, axes) if add else found
            case Reduce(axes=axes, op=op, value=value, over=over):
                found = self.value(value, (*axes, *over))
                return _REDUCTIONS[op](found, axis=tuple(range(len(axes), found.ndim)))
            case Select(axes=axes, value=value, mask=mask, missing=missing):
                found = self.value(value, axes)
                return found if self.full else np.where(self.value(mask, axes), found, missing)

    def write(self, item: Store | Scatter) -> None:
        if isinstance(item, Store):
            axes = next(param.axes or () for param in self.program.params if param.name == item.tensor)
            place = self.memory[item.tensor][tuple(slice(*self.spans[axis]) for axis in axes)]
            place[...] = self.value(item.value, axes) + (place if item.adds else 0)
            return
        if item.form != "stored":
            raise InternalError(f"the interpreter knows no scatter of the form {item.form}, in {self.program.role}")
        shape = self.shape(item.axes)
        kept = self.value(item.mask, item.axes) if item.mask and not self.full else np.ones(shape, bool)
        places = tuple(self.whole(position, item.axes)[kept] for position in item.at)
        self.memory[item.tensor][places] = self.value(item.value, item.axes)[kept]

    # ---- values

    def shape(self, axes: Axes) -> tuple[int, ...]:
        return tuple(self.spans[axis][1] - self.spans[axis][0] for axis in axes)

    def value(self, name: str, space: Axes) -> Array:
        """A value repeated along all axes of a space."""
        return np.broadcast_to(self.aligned(name, space), self.shape(space))

    def whole(self, expr: Expr, space: Axes) -> Array:
        """The value of an expression at all positions of a space."""
        return np.broadcast_to(self.anywhere(expr, space), self.shape(space))

    def aligned(self, name: str, space: Axes) -> Array:
        axes, data = self.known[name]
        order = [axes.index(axis) for axis in space if axis in axes]
        if len(order) != len(axes):
            raise InternalError(f"{name} varies along more than {', '.join(space)}, in {self.program.role}")
        shape = tuple(data.shape[axes.index(axis)] if axis in axes else 1 for axis in space)
        return np.reshape(np.transpose(data, order), shape)

    def anywhere(self, expr: Expr, space: Axes) -> Array:
        """The value of an expression, of length 1 along axes that it does not vary along."""

        def along(axis: str, start: int) -> Array:
            numbers = start + np.arange(*self.spans[axis]) - self.spans[axis][0]
            return np.reshape(numbers, tuple(-1 if other == axis else 1 for other in space))

        def rule(node: Expr, visit: Callable[[Expr], Array]) -> Array:
            match node:
                case Const(value=value, kind=kind):
                    return _ARRAYS.full((), value, kind)
                case Index(axis=axis):
                    return along(axis, self.spans[axis][0])
                case Offset(axis=axis):
                    return along(axis, 0)
                case Start(axis=axis):
                    return np.asarray(self.spans[axis][0])
                case Extent(axis=axis):
                    return np.asarray(self.extents[axis])
                case Read(tensor=tensor) if tensor in self.known:
                    return self.aligned(tensor, space)
                case Read(tensor=tensor, at=at, kind=kind):
                    return _gather(self.memory[tensor], tuple(map(visit, at)), kind)
                case Apply(op=op, args=args):
                    kind = operand_kind(node)
                    operands = [visit(arg) if kind is None else _ARRAYS.cast(visit(arg), kind) for arg in args]
                    return _ARRAYS.pointwise[op](*operands)

        evaluated: Callable[[Expr], Array] = once_a_node(rule)
        return evaluated(expr)


def _gather(tensor: Array, positions: tuple[Array, ...], kind: Kind) -> Array:
    """Elements at positions; outside of the tensor none is a number."""
    nothing = np.nan if kind == "float" else 0
    inside = np.ones((), bool)
    for at, length in zip(positions, tensor.shape, strict=True):
        inside = inside & (at >= 0) & (at < length)
    if 0 in tensor.shape:
        return _ARRAYS.full(inside.shape, nothing, kind)
    found = tensor[tuple(np.clip(at, 0, length - 1) for at, length in zip(positions, tensor.shape, strict=True))]
    return _ARRAYS.cast(np.where(inside, found, nothing), kind)

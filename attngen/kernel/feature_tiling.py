"""Kernels over feature axes of several tiles: each feature tile becomes an axis of its own.

    s[m,n]   = sum[d] q[m,d] * k[n,d]            s_0[m,n]   = sum[d_0] q[m,d_0] * k[n,d_0]
                                                 s_1[m,n]   = sum[d_1] q[m,d_1] * k[n,d_1]
                                          ->     s[m,n]     = s_0[m,n] + s_1[m,n]
    acc[m,e] = sum[n] w[m,n] * v[n,e]            acc_0[m,e_0] = sum[n] w[m,n] * v[n,e_0], and so on

The index of a tile axis is the position along the whole axis, so that inputs are read and outputs stored in place. Inputs and extents keep
the whole axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from attngen.errors import InternalError
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr, Index, Read
from attngen.ir.names import Names
from attngen.ir.printer import print_expr
from attngen.ir.traverse import rewrite
from attngen.kernel.partition import Kernel
from attngen.transform.streaming.streaming import Accumulator

TileAxes = Mapping[str, tuple[str, ...]]
"""The tile axes of each split feature axis."""

_JOINED = {"sum": "add", "max": "max", "logsumexp": "logaddexp"}


@dataclass(frozen=True, slots=True)
class Split:
    """A kernel with split feature axes.

    Attributes:
        kernel: its steps by tiles; its inputs are whole.
        stored: for each output of the original kernel, the reads of its tiles at their tile axes.
    """

    kernel: Kernel
    stored: Mapping[str, tuple[Read, ...]]


def split(kernel: Kernel, tiles: TileAxes) -> Split:
    """The kernel with the feature axes of `tiles` split.

    Raises:
        InternalError: a computed value is read at a position that is no index.
    """
    return _Splitter(kernel, tiles).split()


class _Splitter:
    def __init__(self, kernel: Kernel, tiles: TileAxes) -> None:
        self.kernel = kernel
        self.tiles = tiles
        self.names = Names(kernel.cascade)
        self.steps = {step.name: step for step in kernel.steps}
        self.parts: dict[tuple[str, tuple[str, ...]], str] = {}
        """Names of the tiles of a step, by its tile axes."""
        self.sums: dict[str, list[str]] = {}
        """Names of the reductions that make up a step."""

    def split(self) -> Split:
        kernel, tiles = self.kernel, self.tiles
        steps = tuple(part for step in kernel.steps for part in self.step(step))
        stored = {name: tuple(self.read(name, choice) for choice in self.choices(kernel.axes(name))) for name in kernel.outputs}
        whole = replace(
            kernel,
            features=tuple(part for axis in kernel.features for part in tiles.get(axis, (axis,))),
            steps=steps,
            outputs=tuple(read.tensor for reads in stored.values() for read in reads),
            atomic_adds=tuple(read.tensor for name in kernel.atomic_adds for read in stored[name]),
            accumulators=tuple(part for item in kernel.accumulators for part in self.accumulator(item)),
        )
        return Split(whole, stored)

    def choices(self, axes: tuple[str, ...]) -> Iterator[dict[str, str]]:
        """Every choice of one tile axis for each split axis."""
        here = [axis for axis in axes if axis in self.tiles]
        return (dict(zip(here, choice, strict=True)) for choice in itertools.product(*(self.tiles[axis] for axis in here)))

    def step(self, step: Einsum) -> list[Einsum]:
        found: list[Einsum] = []
        for choice in self.choices(step.axes):
            name = self.fresh(step.name, choice) if choice else step.name
            self.parts[step.name, tuple(choice.values())] = name
            axes = tuple(choice.get(axis, axis) for axis in step.axes)
            inner = list(self.choices(step.over))
            if len(inner) == 1:
                found.append(self.part(step, name, axes, choice))
                self.sums.setdefault(step.name, []).append(name)
                continue
            terms = [self.part(step, self.fresh(name, more), axes, {**choice, **more}) for more in inner]
            self.sums.setdefault(step.name, []).extend(term.name for term in terms)
            joined = _JOINED[step.reduce or "sum"]
            body = reduce(lambda a, b: build.apply(joined, a, b), [build.read(term.name, axes) for term in terms])
            found += [*terms, replace(step, name=name, axes=axes, body=body, reduce=None, over=(), where=None)]
        return found

    def fresh(self, name: str, choice: Mapping[str, str]) -> str:
        numbers = "_".join(str(self.tiles[axis].index(part)) for axis, part in choice.items())
        return self.names.fresh(f"{name}_{numbers}")

    def part(self, step: Einsum, name: str, axes: tuple[str, ...], choice: Mapping[str, str]) -> Einsum:
        over = tuple(choice.get(axis, axis) for axis in step.over)
        where = None if step.where is None else self.expr(step.where, choice)
        return replace(step, name=name, axes=axes, body=self.expr(step.body, choice), over=over, where=where)

    def expr(self, expr: Expr, choice: Mapping[str, str]) -> Expr:
        def rule(node: Expr) -> Expr | None:
            match node:
                case Index(axis=axis) if axis in choice:
                    return Index(choice[axis])
                case Read(tensor=tensor, at=at) if tensor in self.steps:
                    taken = self.taken(node)
                    return replace(node, tensor=self.parts[tensor, taken], at=at) if taken else None
                case _:
                    return None

        return rewrite(expr, rule)

    def taken(self, read: Read) -> tuple[str, ...]:
        """The tile axes at which a step is read."""
        found: list[str] = []
        for axis, at in zip(self.steps[read.tensor].axes, read.at, strict=True):
            if axis in self.tiles:
                if not isinstance(at, Index) or at.axis not in self.tiles[axis]:
                    raise InternalError(f"{print_expr(read)} reads a computed value at a position that is no index of a feature tile")
                found.append(at.axis)
        return tuple(found)

    def read(self, name: str, choice: Mapping[str, str]) -> Read:
        at = tuple(Index(choice.get(axis, axis)) for axis in self.kernel.axes(name))
        return Read(self.parts[name, tuple(choice.values())] if name in self.steps else name, at)

    def accumulator(self, item: Accumulator) -> list[Accumulator]:
        """The accumulator of each tile. A lower sum has the axes of the sum, and so the same tiles."""
        lower = self.sums[item.lower] if item.lower is not None else [None] * len(self.sums[item.name])
        return [replace(item, name=name, lower=below) for name, below in zip(self.sums[item.name], lower, strict=True)]

"""What the templates of Gluon kernels see: frozen records of checked text."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.emit.context import FunctionContext, KernelContext
from attngen.emit.identifiers import Code


@dataclass(frozen=True, slots=True)
class RingContext:
    """A ring of tiles in shared memory: the matrix that they are of, its slots, their barriers, rows and columns of a tile."""

    matrix: Code
    slots: Code
    ready: Code
    free: Code
    shape: Code


@dataclass(frozen=True, slots=True)
class PartitionContext:
    """The function of one partition of the warps: its run-time `values` and compile-time `constants`, statements before the loops, the
    carried state, one iteration, and the epilogue."""

    name: Code
    title: Code
    values: tuple[Code, ...]
    constants: tuple[Code, ...]
    before: tuple[Code, ...]
    init: tuple[Code, ...]
    tile: tuple[Code, ...]
    after: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class CallContext:
    """A partition and what it is given."""

    name: Code
    arguments: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class WarpSpecialisedContext:
    """A kernel whose warps do different things.

    Attributes:
        plain: the kernel that computes the same, with the same parameters.
        name: function name. scores: the function that begins products.
        place: which tile this program owns, and all that its partitions are given. rings: between them.
        workers: the number of consumers. warps, registers: of the partitions beside the first.
        segments, turn, walk: of the loops, as in the plain kernel.
        loader, worker: the partitions. calls: of them, one for each group of warps.
    """

    plain: KernelContext
    name: Code
    scores: FunctionContext
    place: tuple[Code, ...]
    rings: tuple[RingContext, ...]
    workers: int
    warps: Code
    registers: Code
    segments: int
    turn: Code
    walk: Code
    loader: PartitionContext
    worker: PartitionContext
    calls: tuple[CallContext, ...]

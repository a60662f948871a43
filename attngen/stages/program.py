"""A variant between the passes and the printed module: its kernels with their facts, and the source that they become."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.emit.kernel_text import Lowered
from attngen.emit.placement import Shapes
from attngen.errors import UnsupportedError
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir.cascade import Cascade
from attngen.kernel.kernel import Kernel
from attngen.kernel.rewrites.note import Note
from attngen.transform.autodiff.differentiate import Backward
from attngen.transform.streaming.streaming import Streamed

LoweredKernels = tuple[tuple[Kernel, Lowered], ...]
"""Kernels with their statements, in launch order."""


@dataclass(frozen=True, slots=True)
class Program:
    """The kernels of a variant before they have tiles, and what led to them.

    Attributes:
        parts: the kernels before rewrites. facts: the kernels after them, each with what is known of it.
        dtype: of the arguments that the kernels are for; "" for all dtypes alike.
        refused: inputs whose gradients no kernel computes, with the reason. The rest has them all the same.
        divided: whether the forward is `forward_parts` and `forward_merge`, and no backward follows.
    """

    cascade: Cascade
    streamed: Streamed
    backward: Backward | None
    gradient: Cascade | None
    features: tuple[str, ...]
    parts: tuple[Kernel, ...]
    without: frozenset[str]
    asked: frozenset[str]
    facts: tuple[KernelFacts, ...] = ()
    rewrites: tuple[tuple[str, tuple[Note, ...]], ...] = ()
    dtype: str = ""
    divided: bool = False
    refused: tuple[tuple[str, UnsupportedError], ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """In launch order."""
        return tuple(item.kernel for item in self.facts)

    @property
    def delta(self) -> str:
        """Why delta is summed over the keys, "" where it is not."""
        return "" if self.backward is None else self.backward.delta

    def facts_of(self, role: str) -> KernelFacts:
        """The facts of one kernel.

        Raises:
            StopIteration: no kernel has the role.
        """
        return next(item for item in self.facts if item.role == role)


@dataclass(frozen=True, slots=True)
class Source:
    """An emitted module: its text, the role and signature of each kernel, the program behind it, the shapes it is for, and the flags of the
    alternate kernels that it has."""

    text: str
    program: Program
    lowered: LoweredKernels
    shapes: Shapes
    alternates: frozenset[str]

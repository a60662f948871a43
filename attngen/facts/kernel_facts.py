"""The facts of a kernel that hold whatever its tiles are, computed once and read by the schedule, the emitter and `explain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attngen.alternates.known_alternates import ineligible
from attngen.analysis.kv_ranges import KvRanges, describe, loop_ranges
from attngen.facts.work import Structure, structure
from attngen.ir.expr import Expr
from attngen.ir.traverse import names_read
from attngen.kernel.dense_rows import streamed_rows
from attngen.kernel.kernel import Kernel
from attngen.kernel.partition import contributing, dots_to_zero
from attngen.kernel.prefetched_dots import prefetchable_dots


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """A kernel with its facts. Facts follow from the kernel, so equality and hash are those of the kernel alone.

    Attributes:
        kernel: that they are about.
        ranges: which part of the streamed axis may hold anything and which is unmasked, for a tile of the resident axis; None where nothing
            streams.
        listed: whether the loop goes over a list of tiles, for the mask has no closed form and is known before the kernel runs.
        guards: for each step the predicate of what it computes or reduces; None exists always.
        dots_to_zero: products of pairs that have to be 0 where their guard fails, with that guard.
        prefetched: dots that can be issued an iteration ahead, in order; () where that gains nothing.
        dense_rows: inputs that stream as rows of a matrix, which descriptors can fetch.
        ineligible: for each alternate kernel, by its flag, why it has none such, "" if it has one.
        work: what one tile of it holds, multiplies and computes.
    """

    kernel: Kernel
    ranges: KvRanges | None = field(compare=False)
    listed: bool = field(compare=False)
    guards: Mapping[str, Expr | None] = field(compare=False)
    dots_to_zero: Mapping[str, Expr] = field(compare=False)
    prefetched: tuple[str, ...] = field(compare=False)
    dense_rows: tuple[str, ...] = field(compare=False)
    ineligible: Mapping[str, str] = field(compare=False)
    work: Structure = field(compare=False)

    @property
    def role(self) -> str:
        """Of the kernel."""
        return self.kernel.role

    @property
    def alternates(self) -> tuple[str, ...]:
        """Flags of the alternate kernels that it has."""
        return tuple(flag for flag, why in self.ineligible.items() if not why)

    @property
    def visits(self) -> str:
        """Which part of the streamed axis the kernel looks at, for a tile of positions `first` to `last`."""
        if self.ranges is None:
            return "nothing passes"
        found = describe(self.ranges)
        return f"{found}; of these the tiles that {self.role}_list lists" if self.listed else found


def kernel_facts(kernel: Kernel) -> KernelFacts:
    """The facts of one kernel, after all rewrites."""
    ranges = None if kernel.streamed is None else loop_ranges(*kernel.bounding, kernel.streamed, kernel.resident)
    exists = contributing(kernel)
    prefetched, rows = prefetchable_dots(kernel), streamed_rows(kernel)
    why = ineligible(kernel, prefetched, exists)
    return KernelFacts(
        kernel=kernel,
        ranges=ranges,
        listed=ranges is not None and not ranges.tight and not kernel.combines_splits and _is_listable(kernel),
        guards=exists,
        dots_to_zero=dots_to_zero(kernel, exists),
        prefetched=prefetched,
        dense_rows=rows,
        ineligible=why,
        work=structure(kernel, prefetched, rows=bool(rows), alternates=tuple(flag for flag in why if not why[flag])),
    )


def _is_listable(kernel: Kernel) -> bool:
    """Whether the mask is known before the kernel runs: it reads nothing that the kernel computes."""
    steps = {step.name for step in kernel.steps}
    return not any(steps & set(names_read(part)) for part in (kernel.may_mask, kernel.must_mask))

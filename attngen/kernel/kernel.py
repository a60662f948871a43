"""A kernel before tiling: its parallel axis, its loop axis, its steps and its outputs."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Read
from attngen.kernel.scatter import Scatter
from attngen.transform.streaming.streaming import Accumulator, Gauge


@dataclass(frozen=True, slots=True)
class DocumentExtents:
    """Three inputs that the host derives from captured integers. For each of `values`: `first`, its first position among `keys`; `last`,
    one past its last position; `run`, equal to `last` if it fills all positions between, else to `first`."""

    values: str
    keys: str
    first: str
    last: str
    run: str
    rank: int

    @property
    def names(self) -> tuple[str, str, str]:
        """In the order of the host function's results."""
        return self.first, self.last, self.run


@dataclass(frozen=True, slots=True)
class BiasDot:
    """A step `tile + sum of products`, computed as a narrow dot that accumulates onto the tile.

    Attributes:
        step: its name.
        tile: the tile that it adds to.
        columns: for each column of the resident and of the streamed operand, a value and the number of its part: 0 is the value rounded to
            the operand dtype, 1 the rounded remainder, and so on.
    """

    step: str
    tile: Read
    columns: tuple[tuple[tuple[Expr, int], tuple[Expr, int]], ...]

    @property
    def width(self) -> int:
        """Columns of the operands: the K dimension of a dot is a power of two from 16 up."""
        return max(16, 1 << (len(self.columns) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel before tiling.

    Attributes:
        role: "forward" (or "forward_parts" and "forward_merge"), "backward_prepare", "backward_rows", "backward_columns", "backward_pairs",
            "backward_fused", "backward_finish" (numbered when there are several).
        resident: the parallel axis, of the resident tile.
        streamed: the loop axis, of the streamed tiles; None for a rowwise kernel.
        grid: the other axes of the grid.
        loops: grid-like axes that a program loops over and sums (the query heads of a key head).
        features: the feature axes.
        inputs: tensors read, including steps computed by other kernels.
        steps: in order, live ones only.
        outputs: steps to store.
        may_mask: a tile is visited where this may hold; `must_mask`: it needs no masking where this holds. None: everywhere.
        extent_masks: `may_mask` (or wider) and `must_mask` (or narrower) in terms of `document_extents`, for bounds only.
        document_extents: inputs among `inputs` that only `extent_masks` reads.
        tile_list_of: the role of the kernel whose tile list this one computes, and nothing else.
        bias_dots: steps computed by a narrow dot.
        scatters: of outputs that are gradients of pairs.
        split_axis: the axis of the KV splits (`split_kv`): a grid axis, or the loop axis of the combine kernel.
        atomic_adds: outputs summed over `resident` by atomic adds.
        silent: inputs read as 0 in fully masked rows, each with a predicate that holds in the other rows; None if no statistic tells.
        seeing: comparisons of extents and captured numbers under which no row is fully masked; () if none are known.
    """

    role: str
    resident: str
    streamed: str | None
    grid: tuple[str, ...]
    loops: tuple[str, ...]
    features: tuple[str, ...]
    inputs: tuple[Input, ...]
    steps: tuple[Einsum, ...]
    outputs: tuple[str, ...]
    gauges: tuple[Gauge, ...] = ()
    accumulators: tuple[Accumulator, ...] = ()
    may_mask: Expr | None = None
    must_mask: Expr | None = None
    extent_masks: tuple[Expr | None, Expr | None] | None = None
    document_extents: tuple[DocumentExtents, ...] = ()
    tile_list_of: str = ""
    bias_dots: tuple[BiasDot, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    split_axis: str = ""
    atomic_adds: tuple[str, ...] = ()
    silent: tuple[tuple[str, Expr | None], ...] = ()
    seeing: tuple[Expr, ...] = ()

    @property
    def combines_splits(self) -> bool:
        """Whether it loops over the partial states of KV splits."""
        return bool(self.split_axis) and self.split_axis == self.streamed

    @property
    def sums_tiles(self) -> bool:
        """Whether `loops` are inside of the loop over tiles, so that each tile is summed over them."""
        return bool(self.loops and self.scatters)

    @property
    def in_chunks(self) -> bool:
        """Whether the host calls it for one chunk of rows at a time."""
        return any(item.form != "stored" for item in self.scatters)

    @property
    def bounding(self) -> tuple[Expr | None, Expr | None]:
        """The may-mask and the must-mask that tile bounds derive from."""
        return (self.may_mask, self.must_mask) if self.extent_masks is None else self.extent_masks

    @property
    def cascade(self) -> Cascade:
        """The kernel as a cascade of its own."""
        return Cascade(self.inputs, self.steps, self.outputs)

    def axes(self, name: str) -> tuple[str, ...]:
        """Axes of a step or an input."""
        return self.cascade.axes(name)

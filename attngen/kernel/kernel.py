"""What a kernel is before it has tiles: the axis that stays, the axis that passes, its steps, and what it stores."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Expr, Read
from attngen.kernel.scatter import Scatter
from attngen.transform.streaming.streaming import Accumulator, Gauge


@dataclass(frozen=True, slots=True)
class DocumentExtents:
    """Three inputs that the host derives from captured integers: for each of `values`, where it first occurs among `keys`, one past where
    it last does, and the same if it fills all that lies between, else where it first occurs."""

    values: str
    keys: str
    first: str
    last: str
    run: str
    rank: int

    @property
    def names(self) -> tuple[str, str, str]:
        """In the order in which the host computes them."""
        return self.first, self.last, self.run


@dataclass(frozen=True, slots=True)
class BiasDot:
    """A step `tile + sum of products` that a narrow product of its own adds to the tile.

    Attributes:
        step: its name. tile: what it adds to.
        columns: for each column of the operands, on the side that stays and on the side that passes, a value and which of its parts: 0 is
            the value rounded to the dtype of operands, 1 what that leaves over, rounded again, and so on.
    """

    step: str
    tile: Read
    columns: tuple[tuple[tuple[Expr, int], tuple[Expr, int]], ...]

    @property
    def width(self) -> int:
        """Columns of the operands: the depth of a product is a power of two from 16 up."""
        return max(16, 1 << (len(self.columns) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel before it has tiles.

    Attributes:
        role: "forward" (or "forward_parts" and "forward_merge"), "backward_prepare", "backward_rows", "backward_columns", "backward_pairs",
            "backward_fused", "backward_finish" (numbered when there are several).
        resident: axis of the tile a program keeps.
        streamed: axis it walks along; None for a rowwise kernel.
        grid: the other axes that programs are spread over.
        loops: grid-like axes a program sums over itself (the query heads of a key head).
        features: the axes inside a tile's rows.
        inputs: what it reads; steps computed by other kernels appear here as inputs.
        steps: in order, only what the outputs need.
        outputs: steps to store.
        may_mask: a tile must be visited where this may hold; `must_mask`: a tile needs no masks where this holds. None: always.
        extent_masks: `may_mask` and `must_mask` once more where bounds can be told from `document_extents`, the one no narrower
            and the other no wider.
        document_extents: inputs among `inputs` that only `extent_masks` reads.
        tile_list_of: the role of the kernel whose tiles this one lists; it computes nothing else.
        bias_dots: steps that are computed by a narrow product.
        scatters: of outputs that are stored tile by tile.
        split_axis: the axis of the parts that a stream is divided into (`splitting`): programs are spread over it, or it is what streams.
        atomic_adds: outputs that are sums over `resident`, to which every program adds what its tile holds.
        silent: inputs that count in rows with keys only, each with a predicate that holds there; None if nothing tells (`absent`).
        seeing: comparisons of lengths and captured numbers; while all hold, every row has a key. (): nothing is known.
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
        """Whether the states of parts are what streams."""
        return bool(self.split_axis) and self.split_axis == self.streamed

    @property
    def sums_tiles(self) -> bool:
        """Whether each tile is summed over `loops`: their turns lie inside of the stream."""
        return bool(self.loops and self.scatters)

    @property
    def in_chunks(self) -> bool:
        """Whether it is called for a chunk of rows at a time."""
        return any(item.form != "stored" for item in self.scatters)

    @property
    def bounding(self) -> tuple[Expr | None, Expr | None]:
        """The predicates that bounds are found from."""
        return (self.may_mask, self.must_mask) if self.extent_masks is None else self.extent_masks

    @property
    def cascade(self) -> Cascade:
        """The kernel as a cascade of its own."""
        return Cascade(self.inputs, self.steps, self.outputs)

    def axes(self, name: str) -> tuple[str, ...]:
        """Axes of a step or an input."""
        return self.cascade.axes(name)

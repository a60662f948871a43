"""What a kernel holds and does per tile: all that the size of its tiles depends on.

Takes a `Kernel`, gives a frozen `Structure`: which tiles stay and which pass, which matrix products are formed, what is carried, how many
operations fall on one pair of positions. Two kernels of equal structure get equal tiles; `key` names it in the table of measurements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.traverse import free_axes, occurrences, reads
from attngen.kernel.feature_tiles import label
from attngen.kernel.partition import Kernel, addends
from attngen.kernel.split_kv import MERGE, PARTS
from attngen.targets.sfu_cost import SPECIAL

OPERATIONS = dict(floordiv=8, mod=8, erf=12, gelu=12, sin=8, cos=8, pow=4, random_bits=50) | dict(
    int_pow=300, atan=20, atan2=30, asinh=20, log1p=8, expm1=8, rint=6
)
"""Instructions of operations that are several."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One kernel, as far as tiles go. Tiles are named by their feature axis, one entry for each tensor.

    Attributes:
        role: of the kernel.
        resident_tiles: resident tiles [R, f] that the stream multiplies with.
        reloaded_tiles: resident tiles [R, f] that vary along a summed axis, so that each of its turns reads them anew.
        once: resident tiles [R, f] read before or after the stream only.
        streamed_tiles: streamed tiles [S, f].
        held: those of them that a product over features and a carried sum both read, so that they live through a turn.
        vectors: streamed row values [S].
        pairs: tensors read at [R, S]; gathered: those of them that are read at computed positions.
        dots: features summed by products [R, f] x [f, S].
        carried: features of accumulators [R, f].
        sums: row accumulators [R], running maxima included.
        totals: tiles [R, S] summed over the turns of a summed axis.
        stored: tiles [R, S] written, positions included.
        special, simple: operations on one pair of positions, by the special function unit and by the arithmetic units.
        masks: operations of the predicates, which only tiles at the edge of a mask carry out; 0 without masks.
        folded: columns of the narrow products that add biases.
        prefetched: features of the products that can be formed in the turn before.
        behind: those of the products that come last in their accumulators.
        maxima: row values that run along as maxima; `sums` counts them too.
        rows: whether streamed tiles are rows of matrices, which descriptors can fetch.
        atomic_adds: features of the tiles [S, f] that a turn adds to memory; added_rows: the vectors [S].
        alternates: flags of the alternate kernels that it has.
        streams: whether anything passes, if only positions and numbers.
    """

    role: str
    resident_tiles: tuple[str, ...]
    once: tuple[str, ...]
    streamed_tiles: tuple[str, ...]
    held: tuple[str, ...]
    vectors: int
    pairs: int
    dots: tuple[str, ...]
    carried: tuple[str, ...]
    sums: int
    special: int
    simple: int
    masks: int
    folded: int = 0
    reloaded_tiles: tuple[str, ...] = ()
    totals: int = 0
    gathered: int = 0
    stored: int = 0
    prefetched: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    maxima: int = 0
    rows: bool = False
    atomic_adds: tuple[str, ...] = ()
    added_rows: int = 0
    alternates: tuple[str, ...] = ()
    streams: bool = True

    def key(self, dims: Mapping[str, int]) -> str:
        """The structure without its arithmetic, feature axes by their tiles: "forward:64-32>64-32.64;64-32+64;2;masked"."""
        name = {axis: label(length) for axis, length in dims.items()}
        tensors = ">".join(
            ".".join(name[axis] for axis in axes)
            for axes in (self.resident_tiles or self.once, (*self.reloaded_tiles, *self.streamed_tiles))
        )
        products = "+".join(".".join(name[axis] for axis in axes) for axes in (self.dots, self.carried))
        extra = f"v{self.vectors}p{self.pairs}" if self.vectors or self.pairs else ""
        extra += f"f{self.folded}" if self.folded else ""
        if self.atomic_adds or self.added_rows:
            extra += f"a{'.'.join((*(name[axis] for axis in self.atomic_adds), *('1' for _ in range(self.added_rows))))}"
        extra += f"t{self.totals}" * bool(self.totals) + f"s{self.stored}" * bool(self.stored)
        # The stream of a part is that of the whole, and so are its tiles.
        role = "forward" if self.role == PARTS else self.role
        return f"{role}:{tensors};{products};{self.sums}{extra};{'masked' if self.masks else 'full'}"

    @property
    def combines_splits(self) -> bool:
        """Whether what passes are the states of parts."""
        return self.role == MERGE

    @property
    def arithmetic(self) -> tuple[int, int]:
        """Special and simple operations, predicates included: what tells kernels of one `key` apart."""
        return (self.special, self.simple + self.masks)

    @property
    def by_rows(self) -> bool:
        """Whether queries are what stays, and keys what passes."""
        return not self.role.startswith(("backward_columns", "backward_fused"))

    @property
    def features(self) -> tuple[str, ...]:
        """Feature axes of any of its tiles, each once."""
        return tuple(
            dict.fromkeys((*self.resident_tiles, *self.reloaded_tiles, *self.once, *self.streamed_tiles, *self.dots, *self.carried))
        )


def structure(kernel: Kernel, prefetched: tuple[str, ...], *, rows: bool, alternates: tuple[str, ...]) -> Structure:
    """Count what a kernel keeps, streams, multiplies and computes.

    Args:
        kernel: after all rewrites.
        prefetched: its dots that can be issued an iteration ahead.
        rows: whether matrices stream by rows.
        alternates: flags of the alternate kernels that it has.
    """
    features, pair = set(kernel.features), {kernel.resident, kernel.streamed}
    inside = [step for step in kernel.steps if kernel.streamed is not None and kernel.streamed in (*step.axes, *step.over)]
    tiles = _tensors(kernel, inside)
    turning = [item for item in tiles if kernel.resident in item[1] and item[1] & set(kernel.loops)]
    around = [item for item in _tensors(kernel, [step for step in kernel.steps if step not in inside]) if item[0] not in dict(tiles)]
    shapes = Counter(frozenset(axes & (pair | features)) for _, axes in tiles)
    dots = [step for step in inside if pair <= set(step.axes) and set(step.over) & features]
    carried = [step for step in inside if kernel.streamed in step.over]
    in_dots, in_sums = dict(_tensors(kernel, dots)), dict(_tensors(kernel, carried))
    held = [item for item in tiles if item[0] in in_dots and item[0] in in_sums]
    on_pairs = [step for step in inside if pair <= {*step.axes, *step.over}]
    bias_dots = {bias_dot.step: bias_dot for bias_dot in kernel.bias_dots}
    ops = [item for step in on_pairs if step.name not in bias_dots for item in _ops(step.body, pair)]
    predicates = dict.fromkeys(expr for expr in (kernel.may_mask, kernel.must_mask, *(step.where for step in on_pairs)) if expr is not None)
    return Structure(
        role=kernel.role,
        resident_tiles=_features(kernel, [item for item in tiles if item not in turning], kernel.resident),
        reloaded_tiles=_features(kernel, turning, kernel.resident),
        once=_features(kernel, around, kernel.resident),
        streamed_tiles=_features(kernel, tiles, kernel.streamed),
        held=_features(kernel, held, kernel.streamed),
        vectors=shapes[frozenset({kernel.streamed or ""})],
        pairs=shapes[frozenset({kernel.resident, kernel.streamed or ""})],
        dots=tuple(axis for step in dots for axis in step.over if axis in features),
        carried=tuple(axis for step in carried for axis in step.axes if axis in features),
        sums=sum(not set(step.axes) & features for step in carried) + len(kernel.gauges),
        totals=sum(pair <= set(step.axes) and bool(set(step.over) & set(kernel.loops)) for step in inside),
        gathered=sum(_is_gather(read, pair) for read in _reads(kernel, inside)),
        stored=sum(1 if item.form == "stored" else 2 for item in kernel.scatters),
        special=sum(count * SPECIAL.get(op, 0) for op, count in ops),
        simple=sum(count * OPERATIONS.get(op, 1) for op, count in ops),
        masks=sum(count * OPERATIONS.get(op, 1) for expr in predicates for op, count in _ops(expr, pair)),
        folded=sum(bias_dot.width for bias_dot in bias_dots.values()),
        prefetched=tuple(axis for step in inside if step.name in prefetched for axis in step.over),
        behind=_behind(kernel, prefetched),
        maxima=len(kernel.gauges),
        rows=rows,
        atomic_adds=tuple(axis for step in inside if step.name in kernel.atomic_adds for axis in step.axes if axis in features),
        added_rows=sum(step.name in kernel.atomic_adds and not features & set(step.axes) for step in inside),
        alternates=alternates,
        streams=kernel.streamed is not None,
    )


def _behind(kernel: Kernel, prefetched: tuple[str, ...]) -> tuple[str, ...]:
    """Features of the products that go ahead last, each in its accumulator; that of a folded bias has none."""
    bias_dots = {bias_dot.step: bias_dot.tile.tensor for bias_dot in kernel.bias_dots}
    last: dict[str, tuple[str, ...]] = {}
    for step in kernel.steps:
        if step.name in bias_dots.keys() & set(prefetched):
            last[bias_dots[step.name]] = ()
        elif step.name in prefetched:
            parts = addends(step)
            last |= {step.name: last[parts[-1]] if parts else step.over} | dict.fromkeys(parts, ())
    return tuple(axis for axes in last.values() for axis in axes)


def _ops(expr: Expr, pair: set[str | None]) -> list[tuple[str, int]]:
    """Operations carried out for every pair of positions, and how often; what is the same for all pairs of a tile costs nothing beside
    them."""
    found = occurrences(expr).items()
    return [(node.op, count) for node, count in found if isinstance(node, Apply) and pair & set(free_axes(node))]


def _reads(kernel: Kernel, steps: list[Einsum]) -> list[Read]:
    """Different reads of tensors from outside."""
    known = {item.name for item in kernel.inputs}
    found: dict[Read, None] = {}
    for step in steps:
        found |= dict.fromkeys(read for read in (*reads(step.body), *reads(step.where)) if read.tensor in known)
    return list(found)


def _is_gather(read: Read, pair: set[str | None]) -> bool:
    """Whether a tile is read from computed positions, not row by row."""
    return pair <= set(free_axes(read)) and not all(isinstance(at, Index) for at in read.at if pair & set(free_axes(at)))


def _tensors(kernel: Kernel, steps: list[Einsum]) -> list[tuple[str, set[str]]]:
    """Tensors from outside with the axes they vary along, one entry for each different read."""
    return [(read.tensor, set(free_axes(read))) for read in _reads(kernel, steps)]


def _features(kernel: Kernel, tensors: list[tuple[str, set[str]]], axis: str | None) -> tuple[str, ...]:
    """Feature axes of the tiles that lie along a sequence axis."""
    return tuple(feature for _, axes in tensors if axis in axes for feature in kernel.features if feature in axes)

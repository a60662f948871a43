"""The tiles, dots and operations of a kernel: all that the choice of its schedule depends on.

Takes a `Kernel`, gives a frozen `Structure`: resident and streamed tiles, dots, accumulators, operations for each pair of positions. Two
kernels of equal structure get equal tiles; `key` names it in the table of measurements.
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
from attngen.targets.sfu_cost import SFU_OPS

OPERATIONS = dict(floordiv=8, mod=8, erf=12, gelu=12, sin=8, cos=8, pow=4, random_bits=50) | dict(
    int_pow=300, atan=20, atan2=30, asinh=20, log1p=8, expm1=8, rint=6
)
"""Instructions of operations that take more than one."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One kernel as the scheduler sees it, R the resident and S the streamed axis. Tiles are named by feature axis, one entry a tensor.

    Attributes:
        role: of the kernel.
        resident_tiles: tiles [R, f] that are operands in the loop.
        reloaded_tiles: tiles [R, f] that vary along a summed axis, reloaded in each of its iterations.
        once: tiles [R, f] that only the prologue or the epilogue reads.
        streamed_tiles: tiles [S, f].
        reused_tiles: those of them that both a dot over features and an accumulation read, live through an iteration.
        vectors: streamed vectors [S].
        pairs: tensors read at [R, S]; gathered: those of them read at computed positions.
        dots: features contracted by dots [R, f] x [f, S].
        carried: features of accumulators [R, f].
        sums: row accumulators [R], running maxima included.
        summed_tiles: tiles [R, S] accumulated over the iterations of a summed axis.
        stored_tiles: tiles [R, S] written, positions included.
        sfu_ops, alu_ops: operations for each pair of positions, on the special function unit and on the arithmetic units.
        mask_ops: operations of the predicates, which only PARTIAL tiles evaluate; 0 without a mask.
        bias_columns: columns of the dots that add biases.
        prefetched: features of the dots that can be issued one iteration ahead.
        last_dots: those of the last dot of each accumulation chain.
        maxima: running row maxima, which `sums` includes.
        dense_rows: whether streamed tiles are dense rows, which tensor descriptors can load.
        atomic_adds: features of the tiles [S, f] that an iteration adds to memory; atomic_vectors: the vectors [S].
        alternates: flags of its alternate kernels.
        streams: whether it has a loop, if only over positions and numbers.
    """

    role: str
    resident_tiles: tuple[str, ...]
    once: tuple[str, ...]
    streamed_tiles: tuple[str, ...]
    reused_tiles: tuple[str, ...]
    vectors: int
    pairs: int
    dots: tuple[str, ...]
    carried: tuple[str, ...]
    sums: int
    sfu_ops: int
    alu_ops: int
    mask_ops: int
    bias_columns: int = 0
    reloaded_tiles: tuple[str, ...] = ()
    summed_tiles: int = 0
    gathered: int = 0
    stored_tiles: int = 0
    prefetched: tuple[str, ...] = ()
    last_dots: tuple[str, ...] = ()
    maxima: int = 0
    dense_rows: bool = False
    atomic_adds: tuple[str, ...] = ()
    atomic_vectors: int = 0
    alternates: tuple[str, ...] = ()
    streams: bool = True

    def key(self, dims: Mapping[str, int]) -> str:
        """The structure without its arithmetic, feature axes given by their tiles: "forward:64-32>64-32.64;64-32+64;2;masked"."""
        name = {axis: label(length) for axis, length in dims.items()}
        tensors = ">".join(
            ".".join(name[axis] for axis in axes)
            for axes in (self.resident_tiles or self.once, (*self.reloaded_tiles, *self.streamed_tiles))
        )
        products = "+".join(".".join(name[axis] for axis in axes) for axes in (self.dots, self.carried))
        extra = f"v{self.vectors}p{self.pairs}" if self.vectors or self.pairs else ""
        extra += f"f{self.bias_columns}" if self.bias_columns else ""
        if self.atomic_adds or self.atomic_vectors:
            extra += f"a{'.'.join((*(name[axis] for axis in self.atomic_adds), *('1' for _ in range(self.atomic_vectors))))}"
        extra += f"t{self.summed_tiles}" * bool(self.summed_tiles) + f"s{self.stored_tiles}" * bool(self.stored_tiles)
        # A split has the loop of the whole forward, and takes its tiles.
        role = "forward" if self.role == PARTS else self.role
        return f"{role}:{tensors};{products};{self.sums}{extra};{'masked' if self.mask_ops else 'full'}"

    @property
    def combines_splits(self) -> bool:
        """Whether this is the split-KV combine kernel."""
        return self.role == MERGE

    @property
    def arithmetic(self) -> tuple[int, int]:
        """SFU and other operations, predicates included, which distinguish kernels of one `key`."""
        return (self.sfu_ops, self.alu_ops + self.mask_ops)

    @property
    def queries_resident(self) -> bool:
        """Whether queries are resident and keys streamed."""
        return not self.role.startswith(("backward_columns", "backward_fused"))

    @property
    def features(self) -> tuple[str, ...]:
        """Feature axes of all its tiles, each once."""
        return tuple(
            dict.fromkeys((*self.resident_tiles, *self.reloaded_tiles, *self.once, *self.streamed_tiles, *self.dots, *self.carried))
        )


def structure(kernel: Kernel, prefetched: tuple[str, ...], *, rows: bool, alternates: tuple[str, ...]) -> Structure:
    """Count the tiles, dots and operations of a kernel.

    Args:
        kernel: after all rewrites.
        prefetched: its dots that can be issued an iteration ahead.
        rows: whether matrices stream by rows.
        alternates: flags of the alternate kernels that it has.
    """
    features, pair = set(kernel.features), {kernel.resident, kernel.streamed}
    inside = [step for step in kernel.steps if kernel.streamed is not None and kernel.streamed in (*step.axes, *step.over)]
    tiles = _tensors(kernel, inside)
    reloaded = [item for item in tiles if kernel.resident in item[1] and item[1] & set(kernel.loops)]
    around = [item for item in _tensors(kernel, [step for step in kernel.steps if step not in inside]) if item[0] not in dict(tiles)]
    shapes = Counter(frozenset(axes & (pair | features)) for _, axes in tiles)
    dots = [step for step in inside if pair <= set(step.axes) and set(step.over) & features]
    carried = [step for step in inside if kernel.streamed in step.over]
    in_dots, in_sums = dict(_tensors(kernel, dots)), dict(_tensors(kernel, carried))
    reused = [item for item in tiles if item[0] in in_dots and item[0] in in_sums]
    on_pairs = [step for step in inside if pair <= {*step.axes, *step.over}]
    bias_dots = {bias_dot.step: bias_dot for bias_dot in kernel.bias_dots}
    ops = [item for step in on_pairs if step.name not in bias_dots for item in _ops(step.body, pair)]
    predicates = dict.fromkeys(expr for expr in (kernel.may_mask, kernel.must_mask, *(step.where for step in on_pairs)) if expr is not None)
    return Structure(
        role=kernel.role,
        resident_tiles=_features(kernel, [item for item in tiles if item not in reloaded], kernel.resident),
        reloaded_tiles=_features(kernel, reloaded, kernel.resident),
        once=_features(kernel, around, kernel.resident),
        streamed_tiles=_features(kernel, tiles, kernel.streamed),
        reused_tiles=_features(kernel, reused, kernel.streamed),
        vectors=shapes[frozenset({kernel.streamed or ""})],
        pairs=shapes[frozenset({kernel.resident, kernel.streamed or ""})],
        dots=tuple(axis for step in dots for axis in step.over if axis in features),
        carried=tuple(axis for step in carried for axis in step.axes if axis in features),
        sums=sum(not set(step.axes) & features for step in carried) + len(kernel.gauges),
        summed_tiles=sum(pair <= set(step.axes) and bool(set(step.over) & set(kernel.loops)) for step in inside),
        gathered=sum(_is_gather(read, pair) for read in _reads(kernel, inside)),
        stored_tiles=sum(1 if item.form == "stored" else 2 for item in kernel.scatters),
        sfu_ops=sum(count * SFU_OPS.get(op, 0) for op, count in ops),
        alu_ops=sum(count * OPERATIONS.get(op, 1) for op, count in ops),
        mask_ops=sum(count * OPERATIONS.get(op, 1) for expr in predicates for op, count in _ops(expr, pair)),
        bias_columns=sum(bias_dot.width for bias_dot in bias_dots.values()),
        prefetched=tuple(axis for step in inside if step.name in prefetched for axis in step.over),
        last_dots=_last_dots(kernel, prefetched),
        maxima=len(kernel.gauges),
        dense_rows=rows,
        atomic_adds=tuple(axis for step in inside if step.name in kernel.atomic_adds for axis in step.axes if axis in features),
        atomic_vectors=sum(step.name in kernel.atomic_adds and not features & set(step.axes) for step in inside),
        alternates=alternates,
        streams=kernel.streamed is not None,
    )


def _last_dots(kernel: Kernel, prefetched: tuple[str, ...]) -> tuple[str, ...]:
    """Features of the prefetched dots that end an accumulation chain; a bias dot has none."""
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
    """Distinct reads of kernel inputs."""
    known = {item.name for item in kernel.inputs}
    found: dict[Read, None] = {}
    for step in steps:
        found |= dict.fromkeys(read for read in (*reads(step.body), *reads(step.where)) if read.tensor in known)
    return list(found)


def _is_gather(read: Read, pair: set[str | None]) -> bool:
    """Whether a tile is read at computed positions."""
    return pair <= set(free_axes(read)) and not all(isinstance(at, Index) for at in read.at if pair & set(free_axes(at)))


def _tensors(kernel: Kernel, steps: list[Einsum]) -> list[tuple[str, set[str]]]:
    """Kernel inputs with the axes they vary along, one entry for each distinct read."""
    return [(read.tensor, set(free_axes(read))) for read in _reads(kernel, steps)]


def _features(kernel: Kernel, tensors: list[tuple[str, set[str]]], axis: str | None) -> tuple[str, ...]:
    """Feature axes of the tiles along a sequence axis."""
    return tuple(feature for _, axes in tensors if axis in axes for feature in kernel.features if feature in axes)

"""What a kernel holds and does per tile: all that the size of its tiles depends on.

Takes a `Kernel`, gives a frozen `Structure`: which tiles stay and which pass, which matrix products are formed, what is carried, how many
operations fall on one pair of positions. Two kernels of equal structure get equal tiles; its `key` names it in the table of measurements.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply
from attngen.ir.traverse import free_axes, reads, walk
from attngen.transform.partition import Kernel

# Issues of the special function unit; helper functions are counted by what they expand to.
_SPECIAL = {
    "exp": 1, "exp2": 1, "log": 1, "log2": 1, "sqrt": 1, "rsqrt": 1, "sin": 1, "cos": 1, "div": 1, "safe_div": 1, "pow": 2, "erf": 2,
    "tanh": 2, "sigmoid": 2, "softplus": 2, "gelu": 2, "gelu_tanh": 3, "logaddexp": 2,
}  # fmt: skip
# Index arithmetic that PTX has no single instruction for.
_LONG = {"floordiv": 8, "mod": 8, "erf": 12, "gelu": 12, "sin": 8, "cos": 8, "pow": 4}


@dataclass(frozen=True, slots=True)
class Structure:
    """One kernel, as far as tiles go. Tiles are named by their feature axis, one entry for each tensor.

    Attributes:
        role: of the kernel.
        kept: resident tiles [R, f] that the stream multiplies with.
        once: resident tiles [R, f] read before or after the stream only.
        passing: streamed tiles [S, f].
        vectors: streamed row values [S].
        pairs: tensors read at [R, S].
        dots: features summed by products [R, f] x [f, S].
        carried: features of accumulators [R, f].
        sums: row accumulators [R], running maxima included.
        special, simple: operations on one pair of positions, by the special function unit and by the arithmetic units.
        masked: whether some tiles need masks besides the end of the stream.
        turns: whether the stream is walked several times (heads that share keys).
    """

    role: str
    kept: tuple[str, ...]
    once: tuple[str, ...]
    passing: tuple[str, ...]
    vectors: int
    pairs: int
    dots: tuple[str, ...]
    carried: tuple[str, ...]
    sums: int
    special: int
    simple: int
    masked: bool
    turns: bool

    @property
    def key(self) -> str:
        """Structure without the arithmetic, in one word: "forward:d>d.e;d+e;2;masked"."""
        tensors = f"{'.'.join(self.kept or self.once)}>{'.'.join(self.passing)}"
        extra = f"v{self.vectors}p{self.pairs}" if self.vectors or self.pairs else ""
        parts = (tensors, f"{'.'.join(self.dots)}+{'.'.join(self.carried)}", f"{self.sums}{extra}", "masked" if self.masked else "full")
        return f"{self.role}:{';'.join(parts)}"


def structure(kernel: Kernel) -> Structure:
    """Count what a kernel keeps, streams, multiplies and computes."""
    features = set(kernel.features)
    pair = {kernel.resident, kernel.streamed}
    streaming = [step for step in kernel.steps if _is_streamed(kernel, step)]
    inside = _tensors(kernel, streaming)
    outside = _tensors(kernel, [step for step in kernel.steps if step not in streaming])
    tiles = [(name, axes & (pair | features)) for name, axes in inside]
    shapes = Counter(frozenset(axes) for _, axes in tiles)
    kept = _features(kernel, inside, kernel.resident)
    dots = [step for step in streaming if set(step.over) & features]
    carried = [step for step in streaming if kernel.streamed in step.over]
    ops = [node.op for step in streaming for node in walk(step.body) if isinstance(node, Apply) and free_axes(node) and pair <= {*step.axes, *step.over}]
    inner = {name for name, _ in outside} - {name for name, _ in inside}
    return Structure(
        role=kernel.role,
        kept=kept,
        once=_features(kernel, [item for item in outside if item[0] in inner], kernel.resident),
        passing=_features(kernel, inside, kernel.streamed),
        vectors=shapes[frozenset({kernel.streamed})] if kernel.streamed is not None else 0,
        pairs=shapes[frozenset(axis for axis in pair if axis is not None)] if kernel.streamed is not None else 0,
        dots=tuple(axis for step in dots if pair <= set(step.axes) for axis in step.over if axis in features),
        carried=tuple(axis for step in carried for axis in step.axes if axis in features),
        sums=sum(not set(step.axes) & features for step in carried) + len(kernel.gauges),
        special=sum(_SPECIAL.get(op, 0) for op in ops),
        simple=sum(_LONG.get(op, 1) for op in ops),
        masked=kernel.some is not None or kernel.every is not None,
        turns=bool(kernel.loops),
    )


def _is_streamed(kernel: Kernel, step: Einsum) -> bool:
    return kernel.streamed is not None and kernel.streamed in (*step.axes, *step.over)


def _tensors(kernel: Kernel, steps: list[Einsum]) -> list[tuple[str, set[str]]]:
    """Tensors from outside with the axes they vary along, one entry for each different read."""
    known = {item.name for item in kernel.inputs}
    found = [read for step in steps for read in (*reads(step.body), *reads(step.where)) if read.tensor in known]
    return [(read.tensor, set(free_axes(read))) for read in dict.fromkeys(found)]


def _features(kernel: Kernel, tensors: list[tuple[str, set[str]]], axis: str | None) -> tuple[str, ...]:
    """Feature axes of the tiles that lie along a sequence axis."""
    return tuple(feature for _, axes in tensors if axis in axes for feature in kernel.features if feature in axes)



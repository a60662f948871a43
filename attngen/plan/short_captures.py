"""How far captured tensors are read: as far as an axis is long, or only as far as the mask lets it count.

A tensor that is shorter than the axis that indexes it is legal where every element that counts lies within it:

    score + table[kv_idx]                     if kv_idx < lengths[b]         table may end at the greatest length
    where(kv_idx < 100, table[kv_idx], 0.0)                                  and this one at 100

Kernels load whole tiles, though, so what runs then is another form of the variant, whose loads look at the size of the tensor. Intervals
over the lengths and captured values of the call decide, and nothing is decided where the tensor is long enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from attngen.analysis.kv_ranges import solved
from attngen.analysis.value_ranges import ValueRange, value_range
from attngen.emit.addressing import is_head_index
from attngen.errors import ShapeMismatch
from attngen.frontend.spec import Spec
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.traverse import children, map_steps, reads, rewrite

Short = frozenset[tuple[str, int]]
"""Captured tensors, by name, and the dimensions in which they end before their axis does."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A dimension of a captured tensor that is indexed by positions along axes: where, and what holds wherever the value counts."""

    tensor: str
    position: int
    at: Expr
    guard: Expr | None
    step: Einsum


def indexed(cascade: Cascade) -> tuple[Indexed, ...]:
    """All such dimensions of a cascade in CanonicalForm."""
    captured = {item.name for item in cascade.inputs if item.axes is None}
    found: dict[tuple[str, int, Expr, Expr | None], Indexed] = {}
    for step in cascade.steps:
        for read, guard in _guarded(step):
            for position, at in enumerate(read.at if read.tensor in captured else ()):
                if isinstance(at, Index | Read) or is_head_index(at):
                    found.setdefault((read.tensor, position, at, guard), Indexed(read.tensor, position, at, guard, step))
    return tuple(found.values())


def short_tensors(
    every: tuple[Indexed, ...], captures: Mapping[str, object], extents: Mapping[str, int], places: Tensor | None = None
) -> Short:
    """The captured tensors that are shorter than an axis which indexes them, but long enough for what counts.

    Args:
        every: what `indexed` finds. captures: values of the captured inputs. extents: lengths of the axes.
        places: the order of tokens; a position may be read from it.

    Raises:
        ShapeMismatch: one is read further than it reaches.
    """
    found: set[tuple[str, int]] = set()
    for item in every:
        value = captures.get(item.tensor)
        needed = _axis_reach(item.at, captures, extents, places)
        if needed is None or not isinstance(value, Tensor) or value.shape[item.position] >= needed:
            continue
        size = value.shape[item.position]
        if not isinstance(item.at, Index) or _masked_reach(item.at.axis, item.guard, captures, extents) > size:
            raise ShapeMismatch(
                f"dimension {item.position} of the captured tensor {item.tensor} has {size} elements, "
                f"but it is indexed by positions up to {needed - 1}",
                loc=item.step.loc,
                remedy=f"{item.tensor} has shape {tuple(value.shape)}. Clamp the position, or mask what lies beyond.",
            )
        found.add((item.tensor, item.position))
    return frozenset(found)


def guarded(spec: Spec, short: Short) -> Spec:
    """The variant with positions in such dimensions that are not known to be within the tensor: the same numbers, and a load that asks."""

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Read):
            return None
        at = tuple(_asking(where) if (node.tensor, i) in short else where for i, where in enumerate(node.at))
        return None if at == node.at else Read(node.tensor, at, node.kind)

    def changed(step: Einsum) -> Einsum:
        return replace(step, body=rewrite(step.body, rule), where=None if step.where is None else rewrite(step.where, rule))

    return replace(spec, cascade=map_steps(spec.cascade, changed), reordered=None)


def _asking(at: Expr) -> Expr:
    return build.apply("min", at, Extent(at.axis)) if isinstance(at, Index) else at


def _guarded(step: Einsum) -> Iterator[tuple[Read, Expr | None]]:
    """The reads of a step, each with what holds wherever its value counts."""

    def visit(expr: Expr, guard: Expr | None) -> Iterator[tuple[Read, Expr | None]]:
        match expr:
            case Apply(op="where", args=(condition, a, b)):
                yield from visit(condition, guard)
                yield from visit(a, build.both(guard, condition))
                yield from visit(b, build.both(guard, build.apply("not", condition)))
            case _:
                if isinstance(expr, Read):
                    yield expr, guard
                for child in children(expr):
                    yield from visit(child, guard)

    yield from visit(step.body, step.where)
    if step.where is not None:
        yield from visit(step.where, step.where)


def _axis_reach(at: Expr, captures: Mapping[str, object], extents: Mapping[str, int], places: Tensor | None) -> int | None:
    """How long a dimension must be for every position along an axis; None where no axis says so."""
    match at:
        case Read(tensor=name, at=(Index(axis=axis),)) if places is not None and captures.get(name) is places:
            return extents.get(axis)
        case Index(axis=axis):
            return extents.get(axis)
        case Apply(op="add", args=(Apply(op="mul", args=(Index(axis=outer), _)), Index(axis=inner))):
            return extents[outer] * extents[inner] if outer in extents and inner in extents else None
        case _:
            return None


def _masked_reach(axis: str, predicate: Expr | None, captures: Mapping[str, object], extents: Mapping[str, int]) -> float:
    """How long it must be for the positions along an axis at which a predicate can hold."""
    if predicate is None:
        return float("inf")
    end = solved(predicate, axis)[0].hi
    known: dict[Expr, ValueRange] = {Index(name): (0, max(length - 1, 0)) for name, length in extents.items()}
    known |= {Extent(name): (length, length) for name, length in extents.items()}
    for read in reads(end):
        value = captures.get(read.tensor)
        if type(value) is int:
            known[read] = (value, value)
        elif isinstance(value, Tensor) and not value.is_floating_point() and value.numel():
            known[read] = (int(value.min()), int(value.max()))
    return value_range(end, known)[1]

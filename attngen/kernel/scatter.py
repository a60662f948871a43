"""Scatters of gradients of pairs: those of captured tensors read at both a query and a key.

    bias[g * extent(r) + r,m,n]      direct: each pair has its own element, tiles are stored in place
    table[m - n + extent(n),h]       toeplitz: pairs on a diagonal share an element, tiles are stored by diagonals and these summed
    table[near[b,m,n],h]             sorted: anything else, tiles are stored with their positions and summed by sorted position

The last two use a buffer of bounded size, one chunk of rows at a time. Axes that the position lacks are summed in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attngen.analysis.toeplitz import is_diagonal
from attngen.ir.cascade import Cascade, Input
from attngen.ir.expr import Apply, Expr, Extent, Index
from attngen.ir.traverse import free_axes
from attngen.transform.autodiff.differentiate import Gradient

Form = Literal["stored", "diagonals", "sorted"]


@dataclass(frozen=True, slots=True)
class Scatter:
    """The scatter of one gradient.

    Attributes:
        target: the tensor that was read.
        step: its gradient by pairs, over the axes of the position.
        at: the position.
        form: "stored" (direct) in the gradient itself; "diagonals" (toeplitz) or "sorted" through a buffer.
        columns: dimensions of the target indexed by grid axes that occur nowhere else in the position: batched, while equal positions along
            the others, the `keys`, are summed.
    """

    target: Input
    step: str
    at: tuple[Expr, ...]
    form: Form
    columns: tuple[int, ...] = ()

    @property
    def keys(self) -> tuple[int, ...]:
        """The dimensions that are not columns."""
        return tuple(i for i, _ in enumerate(self.at) if i not in self.columns)

    @property
    def column_axes(self) -> tuple[str, ...]:
        """The axes of the columns, in order."""
        return tuple(axis for i in self.columns for axis in plain_axes(self.at[i]))


def scatters(gradients: Sequence[Gradient], cascade: Cascade, pair: tuple[str, str]) -> dict[str, Scatter]:
    """The scatter of every gradient along both sequence axes, by its step.

    Args:
        gradients: those of the backward.
        cascade: the gradient cascade.
        pair: the resident and the streamed axis.
    """
    steps = {step.name: step for step in cascade.steps}
    inputs = {item.name: item for item in cascade.inputs}
    found: dict[str, Scatter] = {}
    for gradient in gradients:
        step = steps.get(gradient.step)
        if gradient.at is not None and step is not None and set(pair) <= set(step.axes):
            found[step.name] = Scatter(inputs[gradient.target], step.name, gradient.at, _form(gradient.at, step.axes, pair))
    return found


def _form(at: tuple[Expr, ...], axes: tuple[str, ...], pair: tuple[str, str]) -> Form:
    if is_injective(at, axes):
        return "stored"
    return "diagonals" if all(is_diagonal(expr, *pair) for expr in at) else "sorted"


def with_columns(scatter: Scatter, axes: tuple[str, ...], masked: Sequence[str]) -> Scatter:
    """The scatter with its columns.

    Args:
        axes: the grid axes.
        masked: those that the mask varies along: they are no columns, since heads then visit different tiles.
    """
    if scatter.form == "stored":
        return scatter
    uses: dict[str, int] = {}
    for expr in scatter.at:
        for axis in free_axes(expr):
            uses[axis] = uses.get(axis, 0) + 1

    def is_column(expr: Expr) -> bool:
        mine = plain_axes(expr)
        return bool(mine) and all(axis in axes and axis not in masked and uses[axis] == 1 for axis in mine)

    columns = tuple(i for i, expr in enumerate(scatter.at) if is_column(expr))
    return Scatter(scatter.target, scatter.step, scatter.at, scatter.form, columns)


def plain_axes(at: Expr) -> tuple[str, ...]:
    """The axes of a position that is an index or a composite of two; () for any other."""
    match at:
        case Index(axis=axis):
            return (axis,)
        case Apply(op="add", args=(Apply(op="mul", args=(Index(axis=outer), Extent(axis=length))), Index(axis=inner))) if length == inner:
            return outer, inner
        case _:
            return ()


def is_injective(at: tuple[Expr, ...], axes: tuple[str, ...]) -> bool:
    """Whether a position is injective along `axes`: each axis alone in a dimension, or in a composite."""
    plain = [plain_axes(expr) for expr in at]
    known = all(axes_ or not free_axes(expr) for axes_, expr in zip(plain, at, strict=True))
    return known and set(axes) <= {axis for mine in plain for axis in mine}


def by_step(found: Mapping[str, Scatter], outputs: Sequence[str]) -> tuple[Scatter, ...]:
    """The scatters of these steps, in order."""
    return tuple(found[name] for name in outputs if name in found)

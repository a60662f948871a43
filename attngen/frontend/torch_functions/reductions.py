"""Reductions over the dimensions of captured tensors: short ones unroll, contractions become steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

from attngen.errors import CaptureError
from attngen.frontend.torch_functions.pointwise import extreme_of
from attngen.frontend.torch_functions.torch_names import unsupported
from attngen.frontend.tracing import partial_index as rows
from attngen.ir.expr import Expr


class Reductions:
    """Reductions over the dimensions of a captured value, for a class that computes with its elements."""

    __slots__ = ()

    dims: rows.Dims

    @abstractmethod
    def observe(self, *axes: str) -> None:
        """Note that the trace depends on the lengths of the dimensions."""

    @abstractmethod
    def row(self) -> rows.PartialIndex:
        """The value and its dimensions."""

    @abstractmethod
    def rebuilt(self, row: rows.PartialIndex) -> Self:
        """Another value of the same type."""

    @abstractmethod
    def wide(self, truth: bool = False) -> Self:
        """The value in a type whose sums do not wrap; or as bools."""

    @abstractmethod
    def operate(self, name: str, *others: Any, swapped: bool = False) -> Any:
        """Apply a pointwise operation."""

    @abstractmethod
    def lifted(self, value: Any) -> Self:
        """An operand as such a value."""

    @abstractmethod
    def contracted(self) -> Self:
        """The sum over the only dimension, as a step."""

    def any(self, dim: int | None = None, keepdim: bool = False) -> Self:
        return self._fold("any", "logical_or", self.wide(truth=True), dim, keepdim)

    def all(self, dim: int | None = None, keepdim: bool = False) -> Self:
        return self._fold("all", "logical_and", self.wide(truth=True), dim, keepdim)

    def amax(self, dim: int | None = None, keepdim: bool = False) -> Self:
        return self._extreme("amax", "maximum", dim, keepdim)

    def amin(self, dim: int | None = None, keepdim: bool = False) -> Self:
        return self._extreme("amin", "minimum", dim, keepdim)

    def sum(self, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Self:
        del dtype
        if len(self.dims) == 1 and self.dims[0][1] > rows.LONGEST_UNROLLED and dim in (None, 0, -1) and not keepdim:
            return self.wide().contracted()
        return self._fold("sum", "add", self.wide(), dim, keepdim)

    def dot(self, other: Any) -> Self:
        other = self.lifted(other)
        if not self.dims and not other.dims:
            raise unsupported("matmul")
        shapes = [[size for _, size in value.dims] for value in (self, other)]
        if len(self.dims) != 1 or shapes[0] != shapes[1]:
            raise CaptureError(f"dot of values with shapes {shapes[0]} and {shapes[1]}", remedy="Index all but the last dimension of both.")
        return self.operate("mul", other).contracted()

    __matmul__ = matmul = inner = vdot = dot

    def __rmatmul__(self, other: Any) -> Self:
        return self.lifted(other).dot(self)

    def _elements(self, name: str, dim: int | None, keepdim: bool) -> list[rows.PartialIndex]:
        if not self.dims or keepdim or isinstance(dim, tuple | list) or (dim is None and len(self.dims) > 1):
            raise unsupported(name)
        self.observe()
        return rows.unroll(self.row(), -1 if dim is None else dim, name)

    def _fold(self, name: str, combine: str, value: Self, dim: int | None, keepdim: bool) -> Self:
        first, *rest = [value.rebuilt(row) for row in value._elements(name, dim, keepdim)]
        for element in rest:
            first = first.operate(combine, element)
        return first

    def _extreme(self, name: str, combine: str, dim: int | None, keepdim: bool) -> Self:
        elements = self._elements(name, dim, keepdim)
        exprs, dims = rows.broadcast(elements)
        expr: Expr = extreme_of(combine, exprs)
        return self.rebuilt(rows.PartialIndex(expr, dims))

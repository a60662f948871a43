"""Traced values, the operands of a user's function during a trace.

A `Traced` represents one element at one position. Python's operators, torch functions and methods build its expression. A partly indexed
captured tensor has `dims`, a placeholder axis and length for each remaining dimension; indexing substitutes the placeholder. Where Python
needs a concrete value (a branch, a number, an iteration), an error with the remedy is raised, except that captured Python numbers are then
baked in as constants (`NeedsValue`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from attngen.errors import (
    InternalError,
    TracedIteration,
    TracedMutation,
    TraceError,
    UnsupportedOperation,
)
from attngen.frontend.spec import Pattern
from attngen.frontend.torch_functions.dtypes import common, converted, wrapped, wraps
from attngen.frontend.torch_functions.operators import Operators
from attngen.frontend.torch_functions.pointwise import POINTWISE, WORDED, cast
from attngen.frontend.torch_functions.reductions import Reductions
from attngen.frontend.torch_functions.torch_names import CASTS, operation, unsupported
from attngen.frontend.tracing import partial_index as rows
from attngen.frontend.tracing.concretization import Definite, Described, no_operand
from attngen.frontend.tracing.trace import NARROW, NeedsValue, Trace, literal
from attngen.frontend.tracing.user_frames import Place, user_place
from attngen.ir import build
from attngen.ir.expr import Const, Expr, Extent, Index, Kind, Read, kind_of
from attngen.ir.traverse import reads

_PYTHON_TYPE = {"float": float, "int": int, "bool": bool}


class Traced(Definite, Described, Operators, Reductions):
    """One element of something, as an expression.

    Attributes:
        expr: its expression.
        dims: placeholder axis and length of every dimension not yet indexed.
        trace: the trace it belongs to; None for values made of positions, lengths and literals alone.
        number: made of Python numbers only, so that its value can be baked in.
        layout: the result pattern of an einsum, which becomes the layout of an output.
        narrow: the dtype of integers that wrap around.
        place: the user's line.
    """

    __slots__ = ("dims", "expr", "layout", "narrow", "number", "place", "trace")

    def __init__(
        self,
        expr: Expr,
        trace: Trace | None = None,
        dims: rows.Dims = (),
        *,
        number: bool = False,
        layout: Pattern | None = None,
        narrow: torch.dtype | None = None,
    ) -> None:
        self.expr = expr
        self.trace = trace
        self.dims = dims
        self.number = number
        self.layout = layout
        self.narrow = narrow if kind_of(expr) == "int" else None
        self.place: Place | None = user_place()

    @property
    def __class__(self) -> type:
        # `isinstance(window, int)` must hold for a traced number. A score cannot pass for a tensor in the same way: torch's C++ would
        # access it as one.
        return _PYTHON_TYPE[self.kind] if self.number else Traced

    @property
    def kind(self) -> Kind:
        return kind_of(self.expr)

    def __repr__(self) -> str:
        from attngen.ir.printer import print_expr

        return f"<traced {print_expr(self.expr)}>"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError("a traced value is used after its function returned", remedy="Keep no argument of a traced function.")

    def operate(self, name: str, *others: Any, swapped: bool = False) -> Any:
        if self.trace is None and any(type(other) is not Traced and isinstance(other, torch.Tensor) for other in others):
            return NotImplemented  # the tensor's own operator reaches the interception, which knows the trace
        operands = [lift(other, self.trace) for other in others]
        return pointwise(name, *operands, self) if swapped else pointwise(name, self, *operands)

    def operate_in_place(self, name: str, other: Any) -> Any:
        """`score += bias` changes all aliases of the value, as in torch; a Python number is rebound, as in Python."""
        result = self.operate(name, other)
        if self.number or result is NotImplemented:
            return result
        if result.dims != self.dims or result.kind != self.kind:
            raise TracedMutation("an in-place operation that changes the type of a value", remedy="Write x = x + y instead of x += y.")
        result = result if self.narrow is None else result._to(self.narrow)
        self.expr, self.trace, self.place, self.layout = result.expr, result.trace, result.place, None
        return self

    def observe(self, *axes: str) -> None:
        """Note that the trace depends on the lengths of these dimensions, or of all remaining ones."""
        if self.trace is not None and self.dims:
            self.trace.observe(axes or (axis for axis, _ in self.dims))

    # Casts and constants

    def to(self, *args: Any, dtype: torch.dtype | None = None, **_: Any) -> Traced:
        for arg in args:
            dtype = arg if type(arg) is torch.dtype else arg.dtype if type(arg) is Traced or isinstance(arg, torch.Tensor) else dtype
        return self if dtype is None else self._to(dtype)

    def type(self, dtype: Any = None) -> Traced:
        if type(dtype) is not torch.dtype:
            raise UnsupportedOperation(f".type({dtype!r})", remedy="Pass a torch.dtype.")
        return self._to(dtype)

    type_as = to

    def _to(self, dtype: torch.dtype) -> Traced:
        expr = self.expr if dtype == self.narrow else converted(self.expr, dtype)
        return Traced(expr, self.trace, self.dims, narrow=dtype if dtype in NARROW else None)

    def new_full(self, size: Any, fill_value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Traced:
        if tuple(size):
            raise UnsupportedOperation(f"a new tensor of shape {tuple(size)}", remedy="Inside a mod make only scalars, of size ().")
        return lift(fill_value, self.trace)._to(self.dtype if dtype is None else dtype)

    def new_zeros(self, size: Any, **options: Any) -> Traced:
        return self.new_full(size, 0, **options)

    def new_ones(self, size: Any, **options: Any) -> Traced:
        return self.new_full(size, 1, **options)

    def new_tensor(self, value: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Traced:
        made = lift(value, self.trace)
        return made if dtype is None else made._to(dtype)

    def clone(self, **_: Any) -> Traced:
        copy = self.rebuilt(self.row())
        copy.layout = self.layout
        return copy

    contiguous = clone

    # Shape

    def __getitem__(self, items: Any) -> Traced:
        if not self.dims and items not in ((), Ellipsis, None):
            raise UnsupportedOperation("indexing a traced value: it is one element", remedy="Index captured tensors only.")
        items = items if isinstance(items, tuple) else (items,)
        return self.rebuilt(rows.index(self.row(), items, _position(self), self.observe))

    def unsqueeze(self, dim: int) -> Traced:
        return self.rebuilt(rows.unsqueeze(self.row(), dim))

    def squeeze(self, dim: int | None = None) -> Traced:
        self.observe()
        return self.rebuilt(rows.squeeze(self.row(), dim))

    def reshape(self, *shape: Any) -> Traced:
        if tuple(shape) not in ((), ((),)) or self.dims:
            raise unsupported("reshape")
        return self

    view = reshape

    def where(self, condition: Any, other: Any) -> Traced:
        return pointwise("where", condition, self, other)

    # Interface for reductions

    def row(self) -> rows.PartialIndex:
        return rows.PartialIndex(self.expr, self.dims)

    def rebuilt(self, row: rows.PartialIndex) -> Traced:
        return Traced(row.expr, self.trace, row.dims, narrow=self.narrow)

    def wide(self, truth: bool = False) -> Traced:
        return Traced(cast(self.expr, "bool") if truth else self.expr, self.trace, self.dims)

    def lifted(self, value: Any) -> Traced:
        return lift(value, self.trace)

    def contracted(self) -> Traced:
        if self.trace is None:
            raise InternalError("a row without a trace")
        self.observe()
        total = rows.contract(self.row(), self.trace)
        return Traced(total if self.narrow is None else wrapped(total, self.narrow), self.trace, narrow=self.narrow)

    def known(self) -> bool | int | float | None:
        """The value of a literal; None otherwise.

        Raises:
            NeedsValue: the value is computed from captured numbers, which can be baked in.
        """
        if isinstance(self.expr, Const):
            return self.expr.value
        if self.number:
            raise NeedsValue(read.tensor for read in reads(self.expr))
        return None

    def __len__(self) -> int:
        self.observe()
        return rows.length(self.row())

    def __iter__(self) -> Iterator[Traced]:
        if self.dims and len(self) > rows.LONGEST_UNROLLED:
            raise TracedIteration(f"a loop over {len(self)} captured elements would be unrolled", remedy="Index with a traced position.")
        return iter([self[position] for position in range(len(self))])

    def __setitem__(self, *_: Any) -> None:
        raise TracedMutation("writing into a traced value", remedy="Build a new value with torch.where.")

    def detach(self) -> Traced:
        if self.kind == "float":
            raise UnsupportedOperation("detach() would drop a gradient", remedy="Pass a detached tensor from outside.")
        return self

    def __getattr__(self, name: str) -> Any:
        known = operation(name)
        if name in CASTS:
            return partial(self._to, CASTS[name])
        if known is not None and name not in ("max", "min"):
            return partial(pointwise, known, self)
        if name in ("max", "min"):
            return partial(_extreme, name, self)
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("_"):
            raise TracedMutation(f"`{name}` changes a value in place", remedy=f"Use {name[:-1]}, which gives a new value.")
        raise unsupported(name)


def _extreme(name: str, value: Traced, *others: Any, **options: Any) -> Traced:
    """`max(other)` is pointwise, `max(dim)` and `max()` reduce."""
    if len(others) == 1 and type(others[0]) is not int and not options:
        return pointwise("maximum" if name == "max" else "minimum", value, others[0])
    raise unsupported(name)


def _position(value: Traced) -> Callable[[Any], rows.PartialIndex]:
    def convert(item: Any) -> rows.PartialIndex:
        lifted = lift(item, value.trace)
        if lifted.number and isinstance(lifted.expr, Read) and value.trace is not None and value.trace.is_negative(lifted.expr.tensor):
            raise NeedsValue((lifted.expr.tensor,))
        return lifted.row()

    return convert


def lift(value: Any, trace: Trace | None) -> Traced:
    """Any operand as a traced value: a traced value itself, a Python number, or a tensor, which becomes a capture."""
    if type(value) is Traced:
        return value
    if isinstance(value, torch.Tensor):
        return _lift_tensor(value, trace)
    if hasattr(value, "item") and type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if not isinstance(value, bool | int | float):
        raise no_operand(value)
    return Traced(literal(value), trace, number=True)


def _lift_tensor(tensor: torch.Tensor, trace: Trace | None) -> Traced:
    if trace is None:
        traced = torch.positive(tensor)  # the interception knows the trace
        if type(traced) is not Traced:
            raise TraceError("attngen's functions take tensors only inside a traced function", remedy="Use torch outside.")
        return traced
    known = trace.constant(tensor)
    if known is not None:
        return Traced(known, trace)
    with torch._C.DisableTorchFunction():
        item = trace.capture(tensor)
        dims = trace.dimensions(tensor)
        narrow = tensor.dtype if tensor.dtype in NARROW else None
    return Traced(Read(item.name, tuple(Index(axis) for axis, _ in dims), item.kind), trace, dims, narrow=narrow)


def pointwise(name: str, *args: Any, **options: Any) -> Traced:
    """Apply an entry of `POINTWISE`. Values are broadcast; None, words and flags are passed on as they are."""
    if options.pop("inplace", False):
        raise TracedMutation(f"`{name}` in place", remedy="Leave out inplace=True.")
    trace = next((arg.trace for arg in (*args, *options.values()) if type(arg) is Traced and arg.trace is not None), None)
    plainly = (type(None), str) if name in WORDED else type(None)
    values = [arg if isinstance(arg, plainly) else lift(arg, trace) for arg in args]
    named = {key: arg if isinstance(arg, plainly) else lift(arg, trace) for key, arg in options.items()}
    lifted = [value for value in (*values, *named.values()) if type(value) is Traced]
    for value in lifted:
        value.observe()
    exprs, dims = rows.broadcast([value.row() for value in lifted])
    numbers = all(value.number for value in lifted)
    if numbers and name == "pow" and all(value.kind == "int" for value in lifted) and not all(isinstance(e, Const) for e in exprs):
        raise NeedsValue(read.tensor for expr in exprs for read in reads(expr))
    trace = trace or next((value.trace for value in lifted if value.trace is not None), None)

    def applied(exprs: list[Expr]) -> Expr:
        remaining = iter(exprs)
        plain = [next(remaining) if type(value) is Traced else value for value in values]
        keywords = {key: next(remaining) if type(value) is Traced else value for key, value in named.items()}
        return POINTWISE[name](*plain, **keywords)

    try:
        expr = applied(exprs)
        narrow = None if numbers or kind_of(expr) == "float" else common(_type_of(value) for value in lifted if not value.number)
        if narrow is not None:
            exprs = [wrapped(e, narrow) if value.number and value.kind == "int" else e for e, value in zip(exprs, lifted, strict=True)]
            # A product of more than two could overflow even 32 bits.
            expr = build.apply("int_pow", *exprs) if name == "pow" else applied(exprs)
            expr = wrapped(expr, narrow) if kind_of(expr) == "int" and wraps(name) else expr
    except TypeError as error:
        if isinstance(error, TraceError):
            raise
        kinds = ", ".join("a tensor or number" if type(arg) is Traced else repr(arg) for arg in (*values, *named.values()))
        raise UnsupportedOperation(f"`{name}` of {kinds}", remedy="Use the plain form of the function.") from None
    number = numbers and not any(isinstance(part, Extent) for part in exprs)
    result = Traced(expr, trace, dims, number=number, narrow=narrow)
    if trace is not None and result.place is not None:
        trace.places.setdefault(expr, result.place)
    return result


def _type_of(value: Traced) -> torch.dtype | None:
    """The dtype of a bool or of an integer that wraps; None for others."""
    return torch.bool if value.kind == "bool" else value.narrow

"""The reference interpreter: evaluates a cascade element by element, with NumPy or any other `Backend`.

Takes a cascade and a value for every input, gives the value of every step. It defines the meaning of the IR: every pass and kernel must
agree with it. A step is evaluated by broadcasting over its axes and reduced axes together; only a sum of products becomes a contraction of
the backend, so that the feature axis is not materialised.

An element exists if the step's predicate holds and everything it reads exists. A reduction skips missing elements, and its result always
exists (0 for an empty sum, -inf for an empty max or logsumexp). A missing element is stored as 0.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from attngen.errors import ArgumentError, GatherOutOfRange
from attngen.ir import build
from attngen.ir.algebra import factors
from attngen.ir.cascade import IDENTITY, Cascade, Einsum, Reduce
from attngen.ir.eval.axis_lengths import axis_extents
from attngen.ir.eval.numpy_backend import NumpyBackend
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Kind, Offset, Read, Start, kind_of
from attngen.ir.traverse import reads, walk

Array = Any
"""An array of the backend."""

_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
_LOGICAL = frozenset(("and", "or", "not"))
_CONVERSIONS = frozenset(("to_float", "to_int", "to_bool"))
_POLYNOMIAL = frozenset(("add", "sub", "mul", "neg", "to_float"))


class Backend(Protocol):
    """The operations required of an array library. `Kind` stands for its boolean, 64-bit integer and working float types."""

    @property
    def pointwise(self) -> Mapping[str, Callable[..., Array]]:
        """A function for every name in `OPS`; arguments have the operand kind of the operation."""
        ...

    def array(self, value: Any, kind: Kind) -> Array: ...

    def cast(self, array: Array, kind: Kind) -> Array: ...

    def full(self, shape: tuple[int, ...], value: bool | int | float, kind: Kind) -> Array: ...

    def arange(self, length: int) -> Array: ...

    def permute(self, array: Array, order: tuple[int, ...]) -> Array: ...

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array: ...

    def broadcast(self, array: Array, shape: tuple[int, ...]) -> Array: ...

    def gather(self, array: Array, positions: tuple[Array, ...]) -> Array:
        """array[positions], the integer arrays broadcast together."""
        ...

    def reduce(self, array: Array, reduce: Reduce, count: int) -> Array:
        """Reduces the last `count` dimensions, none of length 0. A logsumexp of -inf alone is -inf, with gradient 0."""
        ...

    def contract(self, subscripts: str, factors: tuple[Array, ...]) -> Array:
        """An einsum of float arrays."""
        ...

    def any(self, array: Array) -> bool: ...

    def finite(self, array: Array) -> bool: ...

    def guard(self, array: Array, exists: Array) -> Array:
        """The array itself; its gradient is 0 where `exists` is false, even if it is NaN there."""
        ...

    def store(self, array: Array, reduce: Reduce | None) -> Array:
        """Called with every float result before it is read: a backend may round here."""
        ...


def interpret(cascade: Cascade, values: Mapping[str, Any], backend: Backend | None = None) -> dict[str, Array]:
    """The value of every step.

    Args:
        cascade: a verified cascade.
        values: one entry per input, others are ignored. Arguments have one dimension per axis; a captured number is a Python number.
        backend: NumPy in float64 if None.

    Returns:
        Arrays by step name, in step order, with one dimension per axis of the step.

    Raises:
        ArgumentError: an input has no value.
        ShapeMismatch: a value has the wrong rank, or two values disagree about the length of an axis.
        AxisError: the length of an axis is unknown.
        GatherOutOfRange: an unmasked element reads outside of a tensor.
    """
    arrays = NumpyBackend() if backend is None else backend
    known: dict[str, _Stored] = {}
    for item in cascade.inputs:
        if item.name not in values:
            raise ArgumentError(f"no value for input {item.name!r}", remedy="Pass one value for each input of the cascade.")
        known[item.name] = _Stored(arrays.array(values[item.name], item.kind), None)
    extents = axis_extents(cascade, {name: tuple(stored.data.shape) for name, stored in known.items()})
    for step in cascade.steps:
        known[step.name] = _Evaluator(arrays, known, extents, step).run()
    return {step.name: known[step.name].data for step in cascade.steps}


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor and the mask of its existing elements (None: all), which may broadcast."""

    data: Array
    exists: Array | None


class _Evaluator:
    """One step. Every array broadcasts against the step's space: its axes, then its reduced axes."""

    def __init__(self, backend: Backend, known: Mapping[str, _Stored], extents: Mapping[str, int], step: Einsum) -> None:
        self.backend = backend
        self.known = known
        self.extents = extents
        self.step = step
        self.space = (*step.axes, *step.over)
        self.shape = tuple(extents[axis] for axis in self.space)
        self.found: dict[tuple[int, int], tuple[Apply, Array | None, Array]] = {}

    def run(self) -> _Stored:
        """The step's value and existence."""
        exists = self.guards()
        rank = len(self.step.axes)
        if self.step.reduce is None:
            return self.pointwise_step(exists)
        data = self.contraction(exists)
        if data is None:
            data = self.reduction(self.step.reduce, exists)
        if kind_of(self.step.body) == "float":
            data = self.backend.store(data, self.step.reduce)
        return _Stored(self.backend.broadcast(data, self.shape[:rank]), None)

    def pointwise_step(self, exists: Array | None) -> _Stored:
        kind = kind_of(self.step.body)
        data = self.backend.broadcast(self.expr(self.step.body, exists), self.shape)
        if exists is not None:
            data = self.select(exists, data, self.backend.full((), 0, kind))
        if kind == "float":
            data = self.backend.store(data, None)
        return _Stored(data, exists)

    def reduction(self, reduce: Reduce, exists: Array | None) -> Array:
        kind = kind_of(self.step.body)
        shape, reduced = self.shape[: len(self.step.axes)], self.shape[len(self.step.axes) :]
        identity = int(IDENTITY[reduce]) if kind == "int" and reduce == "sum" else IDENTITY[reduce]
        if 0 in reduced:
            return self.backend.full(shape, identity, kind)
        data = self.expr(self.step.body, exists)
        if exists is not None:
            data = self.select(exists, data, self.backend.full((), identity, kind))
        return self.backend.reduce(self.backend.broadcast(data, self.shape), reduce, len(reduced))

    def guards(self) -> Array | None:
        """The mask of the space at full rank, with length 1 along axes that it does not vary along."""
        exists: Array | None = None
        for read in (*reads(self.step.body), *reads(self.step.where)):
            stored = self.known[read.tensor]
            if stored.exists is not None:
                whole = stored.exists if self.plain(read) else self.backend.broadcast(stored.exists, tuple(stored.data.shape))
                exists = self.conjunction(exists, self.element(read, whole, None))
        # Gathers in a conjunct are evaluated under the plain conjuncts.
        for part in sorted(build.conjuncts(self.step.where), key=lambda part: not all(map(self.plain, reads(part)))):
            exists = self.conjunction(exists, self.expr(part, exists))
        return None if exists is None else self.full_rank(exists)

    def conjunction(self, a: Array | None, b: Array) -> Array:
        return b if a is None else self.backend.pointwise["and"](a, b)

    def select(self, condition: Array, a: Array, b: Array) -> Array:
        return self.backend.pointwise["where"](condition, a, b)

    def contraction(self, exists: Array | None) -> Array | None:
        """A sum of products as one einsum; None if masked elements could change it."""
        parts = factors(self.step.body)
        if self.step.reduce != "sum" or kind_of(self.step.body) != "float" or len(parts) < 2:
            return None
        if exists is None:
            return self.einsum(tuple(self.full_rank(self.real(factor, None)) for factor in parts))
        carriers = [i for i, factor in enumerate(parts) if self.covers(factor, exists)]
        if not carriers:
            return None
        others = [factor for i, factor in enumerate(parts) if i != carriers[0]]
        if not all(self.harmless(factor) for factor in others):
            return None
        arrays = [self.full_rank(self.real(factor, None)) for factor in others]
        if not all(self.backend.finite(array) for array in arrays):
            return None
        carrier = self.select(exists, self.real(parts[carriers[0]], exists), self.backend.full((), 0.0, "float"))
        return self.einsum((self.full_rank(carrier), *arrays))

    def covers(self, factor: Expr, exists: Array) -> bool:
        """Whether the factor varies along every axis of the mask, so that zeroing it masks the product."""
        axes = {node.axis for node in walk(factor) if isinstance(node, Index)}
        shape = self.full_rank(exists).shape
        return all(length == 1 or axis in axes for axis, length in zip(self.space, shape, strict=True))

    def harmless(self, factor: Expr) -> bool:
        """Whether a factor may be evaluated at missing elements: a polynomial without gathers."""
        return all(
            (not isinstance(node, Apply) or node.op in _POLYNOMIAL) and (not isinstance(node, Read) or self.plain(node))
            for node in walk(factor)
        )

    def einsum(self, factors: tuple[Array, ...]) -> Array:
        rank, own = len(self.space), len(self.step.axes)
        letters = string.ascii_letters[:rank]
        present = [any(factor.shape[d] != 1 for factor in factors) for d in range(rank)]
        terms = ["".join(letters[d] for d in range(rank) if factor.shape[d] != 1) for factor in factors]
        squeezed = tuple(self.backend.reshape(factor, tuple(n for n in factor.shape if n != 1)) for factor in factors)
        result = "".join(letters[d] for d in range(own) if present[d])
        data = self.backend.contract(f"{','.join(terms)}->{result}", squeezed)
        for d in range(own, rank):
            if not present[d] and self.shape[d] != 1:
                data = data * self.shape[d]
        return self.backend.reshape(data, tuple(self.shape[d] if present[d] else 1 for d in range(own)))

    def full_rank(self, array: Array) -> Array:
        return self.backend.reshape(array, (1,) * (len(self.space) - len(array.shape)) + tuple(array.shape))

    def real(self, expr: Expr, exists: Array | None) -> Array:
        return self.backend.cast(self.expr(expr, exists), "float")

    def expr(self, expr: Expr, exists: Array | None) -> Array:
        """The value of an expression; arbitrary where `exists` is false, but nothing is raised there."""
        match expr:
            case Const(value=value, kind=kind):
                return self.backend.full((), value, kind)
            case Index(axis=axis) | Offset(axis=axis):
                return self.along(self.backend.arange(self.extents[axis]), axis)
            case Start():
                # The interpreter has one tile, the whole axis.
                return self.backend.full((), 0, "int")
            case Extent(axis=axis):
                return self.backend.full((), self.extents[axis], "int")
            case Read(tensor=tensor, kind=kind):
                data = self.element(expr, self.known[tensor].data, exists)
                return data if exists is None or kind != "float" else self.backend.guard(data, exists)
            case Apply():
                # Node and mask are kept along, so that nothing else gets their ids.
                place = id(expr), id(exists)
                if place not in self.found:
                    self.found[place] = expr, exists, self.operation(expr, exists)
                return self.found[place][2]

    def operation(self, node: Apply, exists: Array | None) -> Array:
        match node:
            case Apply(op="where", args=(condition, a, b)):
                return self.where(node.kind, condition, (a, b), exists)
            case Apply(op=op, args=args):
                kind = operand_kind(node)
                operands = [self.expr(arg, exists) for arg in args]
                return self.backend.pointwise[op](*(x if kind is None else self.backend.cast(x, kind) for x in operands))

    def where(self, kind: Kind, condition: Expr, branches: tuple[Expr, Expr], exists: Array | None) -> Array:
        """Each branch is evaluated as missing where the other is chosen."""
        chosen = self.backend.cast(self.expr(condition, exists), "bool")
        first = self.expr(branches[0], self.conjunction(exists, chosen))
        second = self.expr(branches[1], self.conjunction(exists, self.backend.pointwise["not"](chosen)))
        return self.select(chosen, self.backend.cast(first, kind), self.backend.cast(second, kind))

    def along(self, array: Array, axis: str) -> Array:
        place = self.space.index(axis)
        return self.backend.reshape(array, tuple(-1 if i == place else 1 for i in range(len(self.space))))

    def plain(self, read: Read) -> bool:
        """Whether the read is of the whole tensor: distinct indices of axes of the tensor's own lengths."""
        axes = [at.axis for at in read.at if isinstance(at, Index)]
        shape = self.known[read.tensor].data.shape
        return len(axes) == len(read.at) == len(set(axes)) and all(self.extents[a] == n for a, n in zip(axes, shape, strict=True))

    def element(self, read: Read, array: Array, exists: Array | None) -> Array:
        """The tensor, or a mask of its shape, at the positions of the read."""
        if self.plain(read):
            axes = [at.axis for at in read.at if isinstance(at, Index)]
            order = tuple(axes.index(axis) for axis in self.space if axis in axes)
            lengths = iter(array.shape[i] for i in order)
            shape = tuple(next(lengths) if axis in axes else 1 for axis in self.space)
            return self.backend.reshape(self.backend.permute(array, order), shape)
        positions = [self.position(read, d, array.shape[d], exists) for d in range(len(read.at))]
        if 0 in array.shape:
            return self.backend.full((), 0, read.kind)
        return self.backend.gather(array, tuple(positions))

    def position(self, read: Read, dim: int, length: int, exists: Array | None) -> Array:
        """An index array within [0, length): out of range is an error for an existing element, clamped for a missing one."""
        ops = self.backend.pointwise
        at = self.backend.cast(self.expr(read.at[dim], exists), "int")
        zero, end = self.backend.full((), 0, "int"), self.backend.full((), length, "int")
        outside = self.conjunction(exists, ops["or"](ops["lt"](at, zero), ops["ge"](at, end)))
        if 0 not in self.shape and self.backend.any(outside):
            raise GatherOutOfRange(
                f"{self.step.called} reads {read.tensor!r} outside of [0, {length}) at dimension {dim}",
                loc=self.step.loc,
                remedy="Clamp the position, or mask the elements for which it is out of range.",
            )
        return ops["min"](ops["max"](at, zero), self.backend.full((), max(length - 1, 0), "int"))


def operand_kind(node: Apply) -> Kind | None:
    """The operand kind of an operation; None for conversions, which take any."""
    if node.op in _CONVERSIONS:
        return None
    if node.op in _LOGICAL:
        return "bool"
    if node.op in _COMPARISONS:
        return kind_of(Apply("add", node.args))
    result = OPS[node.op].result
    return kind_of(node) if result == "same" else result

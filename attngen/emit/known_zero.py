"""What is 0, and what is finite, wherever nothing exists: a product that enters a sum must be 0 there, and 0 * NaN is NaN.

Two kinds of positions do not exist. Behind the end of an axis everything that is loaded is 0, so a value that is computed there is a
number, the same for every call: `v / (z + 1e-6)` is 0, `v / z` is NaN. Positions that a mask takes away hold anything, unless they are
`cleared` (`kernel/masked_out`): then they read as 0 too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from attngen.analysis.predicates import mask_of
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.eval.numpy_backend import NumpyBackend
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of
from attngen.ir.traverse import free_axes, once_a_node
from attngen.kernel.kernel import Kernel
from attngen.kernel.masked_out import cleared, has_few_rows, partners, project_mask, quieted

# Finite for finite operands.
_FINITE = frozenset(
    (
        *("add", "sub", "mul", "neg", "abs", "sign", "to_float", "where", "min", "max", "clamp", "clamp_min"),
        *("clamp_max", "hardtanh", "tanh", "tanh_small", "sigmoid", "atan", "rint", "floor", "ceil"),
    )
)
_ALSO_FINITE = frozenset(("sin", "cos", "erf", "relu", "softplus", "gelu", "gelu_tanh", "logaddexp"))
_LARGEST = 6.0e4
"""That every storage type holds."""
_NUMPY = NumpyBackend(np.float32)

Known = float | None | bool
"""A value at a position: a number, True for some finite number, None if it may be none."""


class Zeros:
    """What is known of the values of one kernel: `known` has those that are 0 outside of a predicate, None for the bounds alone.

    Args:
        kernel: whose values. exists: the predicate of each step.
    """

    def __init__(self, kernel: Kernel, exists: Mapping[str, Expr | None]) -> None:
        self.kernel = kernel
        self.exists = exists
        self.steps = {step.name: step for step in kernel.steps}
        self.inputs: Collection[str] = {item.name for item in kernel.inputs}
        self.cleared = cleared(kernel)
        self.quieted = quieted(kernel)
        self.silent = {name for name, _ in kernel.silent if name not in self.quieted}
        self.known: dict[str, Expr | None] = {}

    def holds(self, expr: Expr, exists: Expr | None) -> bool:
        """Whether a tile value is exactly 0 where `exists` fails, whatever its other factors are (they must be finite)."""
        match expr:
            case Read(tensor=name):
                return name in self.known and self.known[name] == exists
            case Apply(op="neg" | "to_float", args=(a,)):
                return self.holds(a, exists)
            case Apply(op="mul", args=(a, b)):
                first = self.holds(a, exists) and self.is_finite(b, exists)
                return first or (self.holds(b, exists) and self.is_finite(a, exists))
            case Apply(op="add" | "sub", args=(a, b)):
                return self.holds(a, exists) and self.holds(b, exists)
            case Apply(op="where", args=(_, a, b)):
                return all(self.holds(arg, exists) or build.is_const(arg, 0) for arg in (a, b))
            case _:
                return False

    def is_finite(self, expr: Expr, exists: Expr | None) -> bool:
        """Whether a value is finite for finite data, also where `exists` fails."""

        def holds(node: Expr, finite: Callable[[Expr], bool]) -> bool:
            match node:
                case Const(value=value):
                    return abs(float(value)) != float("inf")
                case Index() | Extent() | Start() | Offset():
                    return True
                case Read(tensor=name) if name in self.inputs:
                    return not self.is_doubtful(node, exists)
                case Read(tensor=name) if name in self.known:
                    return True
                case Read(tensor=name) if name in self.steps:
                    step = self.steps[name]
                    return self.kernel.streamed in step.over or finite(step.body)
                case Read():
                    return True
                case Apply(op=op, args=args) if op in _FINITE:
                    return all(finite(arg) or kind_of(arg) == "bool" for arg in args)
                case _:
                    return False

        return once_a_node(holds)(expr)

    # ---- positions along one axis

    def alone(self, axis: str, exists: Expr | None) -> Expr | None:
        """What a predicate asks of positions along one axis of the tile by themselves."""
        return project_mask(exists, axis, dict(partners(self.kernel)).get(axis, ""), self.steps)

    def is_doubtful(self, expr: Expr, exists: Expr | None) -> bool:
        """Whether a value reads memory that may hold anything where `exists` fails."""
        axes, streamed = dict(partners(self.kernel)), self.kernel.streamed
        if any(self.is_garbage(expr, axis, self.alone(axis, exists)) for axis in axes) or self.is_silent(expr, exists):
            return True
        few = exists is not None and has_few_rows(self.kernel, exists)
        return few and self.reaches(expr, lambda read: streamed in free_axes(read) and kind_of(read) == "float", exists or build.TRUE)

    def is_garbage(self, expr: Expr, axis: str, kept: Expr | None) -> bool:
        """Whether a value reads memory that may hold anything at positions along an axis where `kept` fails."""

        def here(read: Read) -> bool:
            return axis in free_axes(read) and kind_of(read) == "float" and not mask_of(kept) <= mask_of(self.cleared.get(read.tensor))

        return kept is not None and self.reaches(expr, here, kept)

    def is_silent(self, expr: Expr, exists: Expr | None) -> bool:
        """Whether a value reads a cotangent that is not cleared in rows without keys."""
        return exists is not None and bool(self.silent) and self.reaches(expr, lambda read: read.tensor in self.silent, exists)

    def reaches(self, expr: Expr, test: Callable[[Read], bool], exists: Expr) -> bool:
        """Whether a value is made of an input of a kind, which no step on the way sets to 0 where `exists` fails."""

        def is_made(node: Expr, reaches: Callable[[Expr], bool]) -> bool:
            match node:
                case Read(tensor=name) if name in self.inputs:
                    return test(node)
                case Read(tensor=name) if name in self.steps and name not in self.known:
                    step = self.steps[name]
                    one_sided = not {self.kernel.resident, self.kernel.streamed} <= set(step.axes)
                    ends = self.kernel.streamed in step.over or (one_sided and mask_of(exists) <= mask_of(self.exists.get(name)))
                    return not ends and reaches(step.body)
                case Apply(args=args):
                    return any(reaches(arg) for arg in args)
                case _:
                    return False

        return once_a_node(is_made)(expr)

    def is_settled(self, expr: Expr, axis: str) -> bool:
        """Whether a value is finite behind the end of an axis, where what is loaded is 0."""
        return self.at_zero(expr, axis) is not None

    def at_zero(self, expr: Expr, axis: str) -> Known:
        """A value where what is loaded along an axis is 0."""

        def at_node(node: Expr, known: Callable[[Expr], Known]) -> Known:
            match node:
                case Const(value=value):
                    return _number(value)
                case _ if axis not in free_axes(node):
                    return True
                case Read(tensor=name) if name in self.inputs:
                    return 0.0 if kind_of(node) == "float" and Index(axis) in node.at else True
                case Read(tensor=name) if name in self.steps:
                    return self.of_step(self.steps[name], known)
                case Apply(op=op, args=args):
                    return _applied(op, [known(arg) for arg in args])
                case _:
                    return True

        return once_a_node(at_node)(expr)

    def of_step(self, step: Einsum, known: Callable[[Expr], Known]) -> Known:
        """A step's value, by that of its body."""
        if self.kernel.streamed in step.over:
            return True
        value = known(step.body)
        if value is None or (value == 0 and step.reduce in (None, "sum")):
            return value
        # A sum over so many features, or 0 where a mask says so.
        return True if step.reduce is not None or self.exists.get(step.name) is not None else value


def _number(value: bool | int | float) -> Known:
    return float(value) if abs(float(value)) <= _LARGEST else True if abs(float(value)) != float("inf") else None


def _applied(op: str, args: list[Known]) -> Known:
    """An operation on values at a position."""
    numbers = [arg for arg in args if isinstance(arg, float)]
    if op == "where" and isinstance(args[0], float):
        return args[1] if args[0] else args[2]
    if len(numbers) == len(args) and op in _NUMPY.pointwise:
        value = float(_NUMPY.pointwise[op](*(np.float32(number) for number in numbers)))
        return value if abs(value) <= _LARGEST else None
    if any(arg is None for arg in args):
        return None
    if op == "mul" and 0.0 in numbers:
        return 0.0
    over_number = op in ("div", "safe_div") and isinstance(args[1], float) and abs(args[1]) >= 1 / _LARGEST
    return True if op in _FINITE | _ALSO_FINITE or over_number or _is_exact(op) else None


def _is_exact(op: str) -> bool:
    """Whether the results are truth values or whole numbers."""
    return OPS[op].result in ("bool", "int")

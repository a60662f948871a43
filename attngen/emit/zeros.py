"""Where a tile value is known to be 0: what enters a sum must be, wherever nothing exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of

# Finite for finite operands.
_FINITE = frozenset(
    (
        *(
            "add",
            "sub",
            "mul",
            "neg",
            "tanh",
            "tanh_small",
            "sigmoid",
            "where",
            "min",
            "max",
            "clamp",
            "clamp_min",
            "clamp_max",
            "hardtanh",
        ),
        *("to_float", "abs", "sign", "atan", "rint", "floor", "ceil"),
    )
)


class Zeros:
    """What is known of the values of one kernel: `known` has those that are 0 outside of a predicate, None for the bounds alone."""

    def __init__(self, steps: Mapping[str, Einsum], inputs: Collection[str]) -> None:
        self.steps = steps
        self.inputs = inputs
        self.known: dict[str, Expr | None] = {}

    def holds(self, expr: Expr, exists: Expr | None) -> bool:
        """Whether a tile value is exactly 0 where `exists` fails, whatever its other factors are (they must be finite)."""
        match expr:
            case Read(tensor=name):
                return name in self.known and self.known[name] == exists
            case Apply(op="neg" | "to_float", args=(a,)):
                return self.holds(a, exists)
            case Apply(op="mul", args=(a, b)):
                return (self.holds(a, exists) and self.is_finite(b)) or (self.holds(b, exists) and self.is_finite(a))
            case Apply(op="add" | "sub", args=(a, b)):
                return self.holds(a, exists) and self.holds(b, exists)
            case Apply(op="where", args=(_, a, b)):
                return all(self.holds(arg, exists) or build.is_const(arg, 0) for arg in (a, b))
            case _:
                return False

    def is_finite(self, expr: Expr) -> bool:
        """Whether a value is finite for finite data, also at positions that do not exist."""
        match expr:
            case Const(value=value):
                return abs(float(value)) != float("inf")
            case Index() | Extent() | Start() | Offset():
                return True
            case Read(tensor=name) if name in self.steps and name not in self.known:
                step = self.steps[name]
                return bool(step.over) or name in self.inputs or self.is_finite(step.body)
            case Read():
                return True
            case Apply(op=op, args=args) if op in _FINITE:
                return all(self.is_finite(arg) or kind_of(arg) == "bool" for arg in args)
            case _:
                return False

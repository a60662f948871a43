"""Scalar expressions: the body of a step, for one element.

    expr = Const | Index | Extent | Start | Offset | Read | Apply

All nodes are frozen and compare by structure. Every expression has a kind, `float`, `int` or `bool`; `float` stands for whatever
precision a kernel computes in. The table `OPS` is the whole vocabulary.

A value that is used twice is one node with two parents: an expression is a DAG, and as a tree it may be exponentially larger. So hashes
and kinds are computed once a node, and comparison looks at each pair of nodes once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["bool", "int", "float"]
_RANK: dict[Kind, int] = {"bool": 0, "int": 1, "float": 2}


@dataclass(frozen=True, slots=True)
class Op:
    """A pointwise operation. `result` is a kind, or "same" for the widest kind among the arguments (at least int)."""

    name: str
    arity: int
    result: Kind | Literal["same"]
    symbol: str | None = None
    precedence: int = 100


def _table(*ops: Op) -> dict[str, Op]:
    return {op.name: op for op in ops}


OPS: dict[str, Op] = _table(
    Op("or", 2, "bool", "or", 1),
    Op("and", 2, "bool", "and", 2),
    Op("not", 1, "bool", "not", 3),
    Op("lt", 2, "bool", "<", 4),
    Op("le", 2, "bool", "<=", 4),
    Op("gt", 2, "bool", ">", 4),
    Op("ge", 2, "bool", ">=", 4),
    Op("eq", 2, "bool", "==", 4),
    Op("ne", 2, "bool", "!=", 4),
    Op("bitor", 2, "int", "|", 5),
    Op("bitxor", 2, "int", "^", 6),
    Op("bitand", 2, "int", "&", 7),
    Op("shl", 2, "int", "<<", 8),
    Op("shr", 2, "int", ">>", 8),
    Op("add", 2, "same", "+", 9),
    Op("sub", 2, "same", "-", 9),
    Op("mul", 2, "same", "*", 10),
    Op("div", 2, "float", "/", 10),
    Op("floordiv", 2, "same", "//", 10),
    Op("mod", 2, "same", "%", 10),
    Op("neg", 1, "same", "-", 11),
    Op("pow", 2, "float", "**", 12),
    Op("int_pow", 2, "int"),
    Op("min", 2, "same"),
    Op("max", 2, "same"),
    Op("clamp", 3, "float"),
    Op("clamp_min", 2, "float"),
    Op("clamp_max", 2, "float"),
    Op("hardtanh", 3, "float"),
    Op("abs", 1, "same"),
    Op("where", 3, "same"),
    Op("safe_div", 2, "float"),
    Op("exp", 1, "float"),
    Op("exp2", 1, "float"),
    Op("expm1", 1, "float"),
    Op("log", 1, "float"),
    Op("log1p", 1, "float"),
    Op("log2", 1, "float"),
    Op("sqrt", 1, "float"),
    Op("rsqrt", 1, "float"),
    Op("sin", 1, "float"),
    Op("cos", 1, "float"),
    Op("atan", 1, "float"),
    Op("atan2", 2, "float"),
    Op("asinh", 1, "float"),
    Op("erf", 1, "float"),
    Op("tanh", 1, "float"),
    Op("tanh_small", 1, "float"),
    Op("sigmoid", 1, "float"),
    Op("softplus", 1, "float"),
    Op("relu", 1, "same"),
    Op("gelu", 1, "float"),
    Op("gelu_tanh", 1, "float"),
    Op("logaddexp", 2, "float"),
    Op("floor", 1, "float"),
    Op("ceil", 1, "float"),
    Op("rint", 1, "float"),
    Op("float16", 1, "float"),
    Op("bfloat16", 1, "float"),
    Op("sign", 1, "same"),
    Op("to_float", 1, "float"),
    Op("to_int", 1, "int"),
    Op("to_bool", 1, "bool"),
    Op("random_bits", 4, "int"),
)
"""`safe_div(a, b)` is a / b, and 0 where b == 0: an average over no keys is 0. `to_int` truncates towards zero; `floordiv` and `mod` round
towards minus infinity, as in Python; `rint` rounds half to even; `sign(0)` is 0. Derivatives: `relu` and `abs` have 0 at 0; `min` and `max`
split the gradient equally at ties; `clamp(x, low, high)` passes it at its bounds, `hardtanh` (the same function) does not. `pow` is for
floats; `int_pow` for integers: 0 for a negative exponent, unless the base is 1 or -1. `float16` and `bfloat16` round to that type.
`tanh_small` is a tanh that is accurate for small arguments, which are scaled up afterwards. `random_bits(seed, stream, row, column)` is
uniform in [0, 2**31) and a pure function of its arguments (`philox`)."""


@dataclass(frozen=True, slots=True)
class Const:
    """A literal. `kind` distinguishes True, 1 and 1.0, which are equal in Python."""

    value: bool | int | float
    kind: Kind

    def __post_init__(self) -> None:
        if isinstance(self.value, float) and math.isnan(self.value):
            raise ValueError("NaN is not a legal constant")


@dataclass(frozen=True, slots=True)
class Index:
    """The position along an axis: q_idx is Index("m")."""

    axis: str


@dataclass(frozen=True, slots=True)
class Extent:
    """The length of an axis."""

    axis: str


@dataclass(frozen=True, slots=True)
class Start:
    """The first position of a tile along an axis. `Index` is `Start + Offset`; both occur in kernels only."""

    axis: str


@dataclass(frozen=True, slots=True)
class Offset:
    """The position along an axis relative to the start of its tile: loop-invariant."""

    axis: str


@dataclass(frozen=True, slots=True)
class Read:
    """One element of an input or of an earlier step. Positions are integer expressions; a computed one is a gather."""

    tensor: str
    at: tuple[Expr, ...]
    kind: Kind = "float"


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """A pointwise operation from `OPS`. `found` has what `traverse` was asked about the node before."""

    op: str
    args: tuple[Expr, ...]
    kind: Kind = field(init=False, repr=False)
    found: dict[str, tuple[object, ...]] = field(init=False, repr=False)
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"unknown operation {self.op!r}")
        if len(self.args) != OPS[self.op].arity:
            raise ValueError(f"{self.op} takes {OPS[self.op].arity} arguments, got {len(self.args)}")
        object.__setattr__(self, "kind", _kind(self.op, self.args))
        object.__setattr__(self, "found", {})
        object.__setattr__(self, "_hash", hash((self.op, self.args)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return _equal(self, other, set()) if isinstance(other, Apply) else NotImplemented

    def __reduce__(self) -> tuple[type[Apply], tuple[str, tuple[Expr, ...]]]:
        # Hashes of strings differ from process to process.
        return Apply, (self.op, self.args)


Expr = Const | Index | Extent | Start | Offset | Read | Apply


def _equal(a: object, b: object, seen: set[tuple[int, int]]) -> bool:
    """Whether two expressions have one structure; `seen` are the pairs of nodes that were compared before."""
    if a is b:
        return True
    if isinstance(a, Apply) and isinstance(b, Apply):
        if hash(a) != hash(b) or a.op != b.op:
            return False
        pair = (id(a), id(b))
        if pair in seen:
            return True
        seen.add(pair)
        return all(_equal(x, y, seen) for x, y in zip(a.args, b.args, strict=True))
    if isinstance(a, Read) and isinstance(b, Read):
        if (a.tensor, a.kind, len(a.at)) != (b.tensor, b.kind, len(b.at)):
            return False
        return all(_equal(x, y, seen) for x, y in zip(a.at, b.at, strict=True))
    return a == b


def kind_of(expr: Expr) -> Kind:
    """The kind of a value: bool < int < float."""
    match expr:
        case Apply(kind=kind) | Const(kind=kind) | Read(kind=kind):
            return kind
        case Index() | Extent() | Start() | Offset():
            return "int"


def _kind(op: str, args: tuple[Expr, ...]) -> Kind:
    """The kind of the result of an operation."""
    result = OPS[op].result
    if result != "same":
        return result
    numbers = args[1:] if op == "where" else args
    widest: Kind = "bool" if op == "where" else "int"
    for arg in numbers:
        kind = kind_of(arg)
        widest = kind if _RANK[kind] > _RANK[widest] else widest
    return widest

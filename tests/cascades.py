"""Random cascades over axes m, n, d, values for their inputs, and a scalar evaluator that follows the definitions element by element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from attngen.ir.cascade import IDENTITY, Cascade, Einsum, Input, Reduce
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes, reads

AXES = ("m", "n", "d")
TABLE = 5
INPUTS = (
    Input("a", ("m", "n"), 2),
    Input("b", ("n", "d"), 2),
    Input("c", ("m", "d"), 2),
    Input("table", None, 1),
    Input("places", None, 1, "int"),
    Input("temp", None, 0),
    Input("w", None, 0, "int", True),
    Input("flag", None, 0, "bool", True),
)


def values(extents: Mapping[str, int], seed: int) -> dict[str, Any]:
    """A value for each of `INPUTS`."""
    rng = np.random.default_rng(seed)
    arguments = {item.name: rng.normal(size=[extents[axis] for axis in item.axes]) for item in INPUTS if item.axes}
    captures = {"table": rng.normal(size=TABLE), "places": rng.integers(0, TABLE, TABLE), "temp": np.array(rng.normal())}
    return {**arguments, **captures, "w": int(rng.integers(-2, 4)), "flag": bool(rng.integers(2))}


def _whole(axes: tuple[str, ...]) -> st.SearchStrategy[Expr]:
    leaves: list[Expr] = [*(Index(axis) for axis in axes), *(Extent(axis) for axis in AXES), Read("w", (), "int")]
    leaf = st.one_of(st.integers(-4, 6).map(lambda i: Const(i, "int")), st.sampled_from(leaves))
    binary = st.sampled_from(["add", "sub", "mul", "floordiv", "mod", "min", "max", "bitand", "bitxor"])
    return st.recursive(leaf, lambda e: st.tuples(binary, e, e).map(lambda t: Apply(t[0], (t[1], t[2]))), max_leaves=3)


def _truth(axes: tuple[str, ...]) -> st.SearchStrategy[Expr]:
    whole = _whole(axes)
    compare = st.tuples(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), whole, whole).map(lambda t: Apply(t[0], (t[1], t[2])))
    leaf = st.one_of(compare, st.just(Read("flag", (), "bool")), st.booleans().map(lambda b: Const(b, "bool")))
    return st.recursive(
        leaf,
        lambda e: st.one_of(
            st.tuples(st.sampled_from(["and", "or"]), e, e).map(lambda t: Apply(t[0], (t[1], t[2]))), e.map(lambda x: Apply("not", (x,)))
        ),
        max_leaves=3,
    )


def _gather(axes: tuple[str, ...]) -> st.SearchStrategy[Expr]:
    inside = _whole(axes).map(lambda e: Apply("mod", (e, Const(TABLE, "int"))))
    through = inside.map(lambda e: Read("places", (e,), "int"))
    return st.one_of(inside, through).map(lambda e: Read("table", (e,)))


def bodies(axes: tuple[str, ...], tensors: tuple[tuple[str, tuple[str, ...]], ...]) -> st.SearchStrategy[Expr]:
    """Float expressions over some of the axes; finite for finite inputs."""
    readable = [Read(name, tuple(Index(axis) for axis in own)) for name, own in tensors if set(own) <= set(axes)]
    leaf = st.one_of(
        st.sampled_from([Read("temp", ()), *readable]),
        st.sampled_from([Const(x, "float") for x in (-2.0, -0.5, 0.0, 1.0, 1e-05, 3.0)]),
        _gather(axes),
        _whole(axes).map(lambda e: Apply("to_float", (e,))),
    )

    def grow(e: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        binary = st.sampled_from(["add", "sub", "mul", "mul", "max", "min", "safe_div"])
        unary = st.sampled_from(["neg", "tanh", "sigmoid", "relu", "abs", "softplus", "gelu", "sin", "sign", "floor"])
        return st.one_of(
            st.tuples(binary, e, e).map(lambda t: Apply(t[0], (t[1], t[2]))),
            st.tuples(unary, e).filter(lambda t: not isinstance(t[1], Const)).map(lambda t: Apply(t[0], (t[1],))),
            e.map(lambda x: Apply("exp", (Apply("min", (x, Const(3.0, "float"))),))),
            st.tuples(_truth(axes), e, e).map(lambda t: Apply("where", t)),
        )

    return st.recursive(leaf, grow, max_leaves=5)


@st.composite
def cascades(draw: st.DrawFn, max_steps: int = 4) -> Cascade:
    """Cascades in TracedForm over `INPUTS`."""
    tensors = [(item.name, item.axes) for item in INPUTS if item.axes]
    steps: list[Einsum] = []
    for number in range(draw(st.integers(1, max_steps))):
        allowed = tuple(draw(st.lists(st.sampled_from(AXES), min_size=1, max_size=3, unique=True)))
        body = draw(bodies(allowed, tuple(tensors)))
        where = draw(st.one_of(st.none(), _truth(allowed)))
        free = tuple(dict.fromkeys((*free_axes(body), *free_axes(where))))
        over = tuple(draw(st.lists(st.sampled_from(free), max_size=2, unique=True))) if free else ()
        reduce: Reduce | None = draw(st.sampled_from(["sum", "sum", "max", "logsumexp"])) if over else None
        extra = draw(st.sampled_from(AXES))
        axes = tuple(axis for axis in dict.fromkeys((*free, extra)) if axis not in over)
        steps.append(Einsum(f"t{number}", axes, body, reduce, over, where))
        tensors.append((f"t{number}", axes))
    return Cascade(INPUTS, tuple(steps), (steps[-1].name,))


MISSING = None
_FUNCTIONS = {
    "or": lambda a, b: a or b,
    "and": lambda a, b: a and b,
    "not": lambda a: not a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "bitand": lambda a, b: a & b,
    "bitxor": lambda a, b: a ^ b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
    "neg": lambda a: -a,
    "min": min,
    "max": max,
    "abs": abs,
    "safe_div": lambda a, b: a / b if b else 0.0,
    "exp": math.exp,
    "sin": math.sin,
    "tanh": math.tanh,
    "sigmoid": lambda x: 0.5 * (1 + math.tanh(x / 2)),
    "softplus": lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "sign": lambda x: float((x > 0) - (x < 0)),
    "floor": lambda x: float(math.floor(x)),
    "to_float": float,
}


class Scalars:
    """The value of one element at a time, in plain Python; `MISSING` where it does not exist."""

    def __init__(self, cascade: Cascade, inputs: Mapping[str, Any], extents: Mapping[str, int]) -> None:
        self.cascade = cascade
        self.inputs = inputs
        self.extents = extents
        self.cache: dict[tuple[str, tuple[int, ...]], Any] = {}

    def tensor(self, name: str) -> np.ndarray:
        """All elements of a step, missing ones as 0."""
        axes = self.cascade.axes(name)
        result = np.zeros([self.extents[axis] for axis in axes])
        for at in np.ndindex(*result.shape):
            value = self.element(name, at)
            result[at] = 0 if value is MISSING else value
        return result

    def element(self, name: str, at: tuple[int, ...]) -> Any:
        step = self.cascade.step(name)
        if step is None:
            value = self.inputs[name]
            return np.asarray(value)[at].item()
        if (name, at) not in self.cache:
            self.cache[name, at] = self.compute(step, dict(zip(step.axes, at, strict=True)))
        return self.cache[name, at]

    def compute(self, step: Einsum, at: dict[str, int]) -> Any:
        if step.reduce is None:
            return self.contribution(step, at)
        ranges = [range(self.extents[axis]) for axis in step.over]
        found = [self.contribution(step, {**at, **dict(zip(step.over, where, strict=True))}) for where in itertools.product(*ranges)]
        present = [value for value in found if value is not MISSING]
        match step.reduce:
            case "sum":
                return math.fsum(present)
            case "max":
                return max(present, default=IDENTITY["max"])
            case "logsumexp":
                top = max(present, default=-math.inf)
                return top if math.isinf(top) else top + math.log(math.fsum(math.exp(value - top) for value in present))

    def contribution(self, step: Einsum, at: dict[str, int]) -> Any:
        for read in (*reads(step.body), *reads(step.where)):
            if self.evaluate(read, at) is MISSING:
                return MISSING
        if step.where is not None and not self.evaluate(step.where, at):
            return MISSING
        return self.evaluate(step.body, at)

    def evaluate(self, expr: Expr, at: dict[str, int]) -> Any:
        match expr:
            case Const(value=value):
                return value
            case Index(axis=axis):
                return at[axis]
            case Extent(axis=axis):
                return self.extents[axis]
            case Read(tensor=tensor, at=places):
                return self.element(tensor, tuple(self.evaluate(place, at) for place in places))
            case Apply(op="where", args=(condition, a, b)):
                return self.evaluate(a if self.evaluate(condition, at) else b, at)
            case Apply(op=op, args=args):
                result = _FUNCTIONS[op](*(self.evaluate(arg, at) for arg in args))
                return float(result) if kind_of(expr) == "float" else result

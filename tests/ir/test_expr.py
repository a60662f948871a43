from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of


def chain(steps: int) -> Expr:
    """A value that is used twice, again and again: 2 ** steps reads in the text."""
    x: Expr = build.read("a", ("m",))
    for _ in range(steps):
        x = Apply("mul", (x, Apply("sigmoid", (x,))))
    return x


def test_equal_dags_are_equal_whatever_they_share() -> None:
    assert chain(60) == chain(60)
    assert hash(chain(60)) == hash(chain(60))
    assert chain(60) != chain(61)
    assert len({chain(60), chain(60), chain(59)}) == 2


def test_positions_are_compared_once_a_node() -> None:
    def gather(steps: int) -> Expr:
        at: Expr = Index("m")
        for _ in range(steps):
            at = Apply("add", (at, Read("t", (at,), "int")))
        return Read("a", (at,))

    assert Apply("exp", (gather(60),)) == Apply("exp", (gather(60),))


def test_a_copy_has_the_hash_of_its_process() -> None:
    for copied in (pickle.loads(pickle.dumps(chain(5))), copy.deepcopy(chain(5))):
        assert copied == chain(5)
        assert hash(copied) == hash(chain(5))
    assert b"_hash" not in pickle.dumps(chain(5))


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (chain(60), "float"),
        (Apply("add", (Index("m"), Const(True, "bool"))), "int"),
        (Apply("where", (Const(True, "bool"), Const(True, "bool"), Const(False, "bool"))), "bool"),
        (Apply("where", (Const(True, "bool"), Index("m"), build.ONE)), "float"),
        (Apply("lt", (Index("m"), build.ONE)), "bool"),
        (Extent("m"), "int"),
        (Start("m"), "int"),
        (Offset("m"), "int"),
        (Read("doc", (Index("m"),), "int"), "int"),
        (Apply("div", (Index("m"), Const(2, "int"))), "float"),
        (Apply("floordiv", (Index("m"), Const(2, "int"))), "int"),
        (Apply("neg", (Const(True, "bool"),)), "int"),
        (Apply("exp", (Index("m"),)), "float"),
        (Apply("to_int", (build.ONE,)), "int"),
    ],
)
def test_kinds(expr: Expr, kind: str) -> None:
    assert kind_of(expr) == kind


def test_every_operation_is_in_the_table_once() -> None:
    assert all(name == op.name for name, op in OPS.items())
    symbols = [op.symbol for op in OPS.values() if op.symbol is not None and op.arity == 2]
    assert len(symbols) == len(set(symbols))


def test_every_operation_is_evaluated() -> None:
    """By the interpreter, to the kind that the table tells."""
    for name, op in OPS.items():
        if name == "random_bits":
            continue
        truth, number = build.TRUE, build.const(1 if name in ("bitor", "bitxor", "bitand", "shl", "shr", "int_pow") else 0.5)
        logical = name in ("or", "and", "not")
        args = (truth if logical or name == "where" else number, *[truth if logical else number] * (op.arity - 1))
        expr = Apply(name, args)
        cascade = Cascade((Input("a", ("m",), 1),), (Einsum("x", ("m",), expr),), ("x",))
        found = interpret(cascade, {"a": np.zeros(2)})["x"]
        assert found.dtype.kind == {"float": "f", "int": "i", "bool": "b"}[kind_of(expr)], name

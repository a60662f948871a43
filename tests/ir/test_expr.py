from __future__ import annotations

import numpy as np
import pytest

from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Offset, Read, Start, kind_of

M = Index("m")
HALF, ONE, YES = Const(0.5, "float"), Const(1, "int"), Const(True, "bool")


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (M, "int"), (Extent("m"), "int"), (Start("m"), "int"), (Offset("m"), "int"), (HALF, "float"), (YES, "bool"),
        (Read("q", (M,)), "float"), (Read("doc", (M,), "int"), "int"),
        (Apply("add", (M, ONE)), "int"), (Apply("add", (M, HALF)), "float"), (Apply("add", (YES, YES)), "int"),
        (Apply("div", (M, ONE)), "float"), (Apply("floordiv", (M, ONE)), "int"), (Apply("lt", (HALF, HALF)), "bool"),
        (Apply("where", (YES, ONE, ONE)), "int"), (Apply("where", (YES, ONE, HALF)), "float"), (Apply("where", (YES, YES, YES)), "bool"),
        (Apply("to_int", (HALF,)), "int"), (Apply("neg", (YES,)), "int"), (Apply("exp", (ONE,)), "float"),
    ],
)  # fmt: skip
def test_kinds(expr: Expr, kind: str) -> None:
    assert kind_of(expr) == kind


def test_equal_texts_are_equal_values() -> None:
    assert Apply("add", (M, ONE)) == Apply("add", (Index("m"), Const(1, "int")))
    assert Const(1, "int") != Const(1.0, "float"), "a kind is part of a literal"


def test_every_operation_is_in_the_table_once() -> None:
    assert all(name == op.name for name, op in OPS.items())
    symbols = [op.symbol for op in OPS.values() if op.symbol is not None and op.arity == 2]
    assert len(symbols) == len(set(symbols))


def test_every_operation_is_evaluated() -> None:
    """By the interpreter, to the kind that the table tells."""
    for name, op in OPS.items():
        if name == "random_bits":
            continue
        whole = name in ("bitor", "bitxor", "bitand", "shl", "shr", "int_pow")
        first = YES if name in ("or", "and", "not", "where") else ONE if whole else HALF
        args = tuple([first] + [YES if name in ("or", "and") else ONE if whole else HALF] * (op.arity - 1))
        expr = Apply(name, args)
        cascade = Cascade((Input("a", ("m",), 1),), (Einsum("x", ("m",), expr),), ("x",))
        found = interpret(cascade, {"a": np.zeros(2)})["x"]
        assert found.dtype.kind == {"float": "f", "int": "i", "bool": "b"}[kind_of(expr)], name

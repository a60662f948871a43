from __future__ import annotations

import pytest

from attngen.ir import build
from attngen.ir.expr import Index
from attngen.tile.nodes import Dot, Let, Load, Reduce, Scatter, Select, Statement, Store
from attngen.tile.operands import exprs, names_of, operands

BODY = build.mul(build.read("x", ("m",)), build.add(build.read("x", ("m",)), build.read("y", ("m",))))
ROW = build.read("row", ("m",), "int")


@pytest.mark.parametrize(
    ("item", "by_name", "all_names"),
    [
        (Let("z", ("m",), BODY), (), ("x", "y")),
        (Load("k_value", ("m",), "k", (ROW,)), (), ("row",)),
        (Dot("s", ("m", "n"), "q", "k", ("d",)), ("q", "k"), ("q", "k")),
        (Dot("s", ("m", "n"), "q", "k", ("d",), "before"), ("q", "k", "before"), ("q", "k", "before")),
        (Reduce("l", ("m",), "sum", "w", ("n",)), ("w",), ("w",)),
        (Select("w_seen", ("m", "n"), "w", "valid", 0.0), ("w", "valid"), ("w", "valid")),
        (Store("o", ("m",), "o_value"), ("o_value",), ("o_value",)),
        (Scatter("db", "b", ("m",), "x", (ROW,), "stored", "valid"), ("x", "valid"), ("x", "valid", "row")),
        (Scatter("db", "b", ("m",), "x", (Index("m"),), "stored", ""), ("x",), ("x",)),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Statement) else "",
)
def test_what_a_statement_reads(item: Statement, by_name: tuple[str, ...], all_names: tuple[str, ...]) -> None:
    assert operands(item) == by_name
    assert names_of(item) == all_names


def test_expressions_of_a_statement() -> None:
    assert exprs(Let("z", ("m",), BODY)) == (BODY,)
    assert exprs(Load("k_value", ("m",), "k", (ROW,))) == (ROW,)
    assert exprs(Store("o", ("m",), "o_value")) == ()

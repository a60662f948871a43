from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Apply, Const, Expr, Index, Read, kind_of
from attngen.ir.traverse import rewrite
from tests.cascades import INPUTS, bodies, values

A, W, M = Read("a", (Index("m"), Index("n"))), Read("w", (), "int"), Index("m")
TENSORS = tuple((item.name, item.axes) for item in INPUTS if item.axes)


@given(bodies(("m", "n", "d"), TENSORS), st.integers(0, 99))
def test_folding_changes_neither_value_nor_kind(body: Expr, seed: int) -> None:
    folded = rewrite(body, lambda node: build.apply(node.op, *node.args) if isinstance(node, Apply) else None)
    assert kind_of(folded) == kind_of(body)
    steps = tuple(Einsum(name, ("m", "n", "d"), expr) for name, expr in (("plain", body), ("folded", folded)))
    found = interpret(Cascade(INPUTS, steps, ("plain",)), values({"m": 2, "n": 3, "d": 2}, seed))
    np.testing.assert_allclose(found["folded"], found["plain"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (build.add(A, build.ZERO), A),
        (build.mul(build.ONE, A), A),
        (build.mul(A, build.ZERO), build.ZERO),
        (build.neg(build.neg(A)), A),
        (build.add(A, build.neg(A)), Apply("sub", (A, A))),
        (build.sub(M, M), Const(0, "int")),
        (build.exp(build.ZERO), build.ONE),
        (build.apply("where", build.TRUE, A, W), A),
        (build.apply("and", build.TRUE, build.FALSE), build.FALSE),
        (build.apply("not", build.apply("not", Read("flag", (), "bool"))), Read("flag", (), "bool")),
        (build.add(build.const(2), build.const(3)), Const(5, "int")),
        (build.apply("div", build.const(1), build.const(2)), Const(0.5, "float")),
        (build.safe_div(A, build.ONE), A),
    ],
)
def test_neutral_elements(built: Expr, expected: Expr) -> None:
    assert built == expected


def test_dropping_a_float_would_change_the_kind() -> None:
    assert kind_of(build.add(W, build.ZERO)) == "float"
    assert kind_of(build.mul(W, build.ONE)) == "float"


def test_nothing_folds_to_nan() -> None:
    assert isinstance(build.add(build.INF, build.NEG_INF), Apply)
    assert isinstance(build.apply("div", build.ONE, build.ZERO), Apply)
    with pytest.raises(ValueError, match="NaN"):
        Const(math.nan, "float")


def test_conjunctions_drop_duplicates_and_none() -> None:
    p, q = Apply("lt", (M, W)), Apply("ge", (M, W))
    assert build.both(None, None) is None
    assert build.both(p, build.both(q, p)) == Apply("and", (p, q))
    assert build.conjuncts(build.both(p, q)) == (p, q)
    assert build.conjuncts(build.TRUE) == ()


def test_total_of_nothing_is_zero() -> None:
    assert build.total([]) == build.ZERO
    assert build.total([A, build.ZERO]) == A

from __future__ import annotations

import pytest

from attngen.ir import build
from attngen.ir.cascade import Input
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr

M, N = Index("m"), Index("n")
X = Read("x", (M, N))


def op(name: str, *args: Expr) -> Expr:
    return Apply(name, args)


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (op("add", op("mul", X, X), X), "x[m,n] * x[m,n] + x[m,n]"),
        (op("mul", op("add", X, X), X), "(x[m,n] + x[m,n]) * x[m,n]"),
        (op("sub", X, op("sub", X, X)), "x[m,n] - (x[m,n] - x[m,n])"),
        (op("neg", op("mul", X, X)), "-(x[m,n] * x[m,n])"),
        (op("mul", op("neg", X), X), "-x[m,n] * x[m,n]"),
        (op("pow", op("neg", X), X), "(-x[m,n]) ** x[m,n]"),
        (op("pow", X, op("neg", X)), "x[m,n] ** -x[m,n]"),
        (op("pow", op("pow", X, X), X), "(x[m,n] ** x[m,n]) ** x[m,n]"),
        (op("pow", Const(-2, "int"), X), "(-2) ** x[m,n]"),
        (op("and", op("ge", M, N), op("not", op("lt", M, N))), "m >= n and not m < n"),
        (op("not", op("or", op("ge", M, N), op("lt", M, N))), "not (m >= n or m < n)"),
        (op("eq", op("lt", M, N), op("lt", N, M)), "(m < n) == (n < m)"),
        (op("where", op("lt", M, N), build.NEG_INF, op("exp", X)), "where(m < n, -inf, exp(x[m,n]))"),
        (op("floordiv", op("mod", M, Extent("n")), N), "m % extent(n) // n"),
        (Read("w", (), "int"), "w"),
    ],
)
def test_parentheses_only_where_needed(expr: Expr, text: str) -> None:
    assert print_expr(expr) == text


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Input("q", ("b", "m"), 2), "q[b,m]"),
        (Input("ids", ("m",), 1, "int"), "ids[m]: int"),
        (Input("t", None, 2), "t: float[:, :]"),
        (Input("t", None, 0), "t: float[]"),
        (Input("w", None, 0, "int", True), "w: int"),
    ],
)
def test_inputs(item: Input, text: str) -> None:
    assert str(item) == text
    head = f"cascade({text})" if item.axes else f"cascade(; {text})"
    assert parse(f"{head}\n  y = 1.0\n  -> y").inputs == (item,)


def test_same_text_for_equal_cascades_of_two_users() -> None:
    text = "cascade(a[m])\n  y[m] = a[m]\n  -> y"
    assert str(parse(text)) == text

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.analysis.value_ranges import ValueRange, value_range
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index
from attngen.ir.parser import parse

FIRST, COUNT = st.integers(-20, 20), st.integers(0, 9)


def text(expr: str) -> Expr:
    where = parse(f"cascade(a[m], c[n])\n x[m,n] = a[m] * c[n]  if {expr} > 0\n -> x").steps[0].where
    assert isinstance(where, Apply)
    return where.args[0]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("m - n", (-7, 7)),
        ("abs(m - n)", (0, 7)),
        ("m // 4", (1, 1)),
        ("m % 8", (4, 7)),
        ("(m + 4) % 8", (0, 3)),
        ("n % 8 + 5", (5, 13)),
        ("max(m, n)", (4, 11)),
    ],
)
def test_ranges(expr: str, expected: tuple[int, int]) -> None:
    known: dict[Expr, ValueRange] = {Index("m"): (4, 7), Index("n"): (0, 11)}
    assert value_range(text(expr), known) == expected


@given(
    st.sampled_from(("m - n", "m // 3 - n % 5", "abs(m - n) * n", "min(m, n) % 4")), *[st.integers(-20, 20)] * 2, *[st.integers(0, 9)] * 2
)
def test_every_value_lies_in_the_range(expr: str, m: int, n: int, rows: int, keys: int) -> None:
    tree = text(expr)
    low, high = value_range(tree, {Index("m"): (m, m + rows), Index("n"): (n, n + keys)})
    for a in range(m, m + rows + 1):
        for b in range(n, n + keys + 1):
            at = value_range(tree, {Index("m"): (a, a), Index("n"): (b, b)})
            assert at[0] == at[1] and low <= at[0] <= high


def test_interval_of_a_difference_with_itself_is_a_point() -> None:
    m = Index("m")
    assert value_range(build.apply("sub", build.add(m, build.const(3)), m), {m: (0, 9)}) == (3, 3)

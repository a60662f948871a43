from __future__ import annotations

import pytest

from attngen.analysis.value_ranges import TileClass, classify, value_range
from attngen.ir import build
from attngen.ir.expr import Expr, Index
from attngen.ir.parser import parse


def text(predicate: str) -> Expr:
    where = parse(f"cascade(a[m], c[n]; w: int, t: int[:])\n x[m,n] = a[m] * c[n]  if {predicate}\n -> x").steps[0].where
    assert where is not None
    return where


@pytest.mark.parametrize(
    ("predicate", "rows", "keys", "expected"),
    [
        ("m >= n", (4, 8), (0, 4), TileClass.FULL),
        ("m >= n", (4, 8), (4, 8), TileClass.PARTIAL),
        ("m >= n", (4, 8), (8, 12), TileClass.EMPTY),
        ("m == n", (3, 4), (3, 4), TileClass.FULL),
        ("m != n", (0, 2), (2, 4), TileClass.FULL),
        ("m // 4 == n // 4", (4, 8), (4, 8), TileClass.FULL),
        ("m // 4 == n // 4", (4, 8), (0, 4), TileClass.EMPTY),
        ("m % 8 < 4", (8, 12), (0, 4), TileClass.FULL),
        ("abs(m - n) > w", (0, 4), (10, 12), TileClass.FULL),
        ("t[n] == t[m]", (0, 4), (0, 4), TileClass.PARTIAL),
        ("not (m >= n and n < w)", (0, 4), (5, 6), TileClass.FULL),
    ],
)
def test_class(predicate: str, rows: tuple[int, int], keys: tuple[int, int], expected: TileClass) -> None:
    assert classify(text(predicate), {"m": rows, "n": keys}, scalars={"w": 5}) is expected


def test_no_predicate_is_full() -> None:
    assert classify(None, {}) is TileClass.FULL


def test_interval_of_a_difference_with_itself_is_a_point() -> None:
    m = Index("m")
    assert value_range(build.apply("sub", build.add(m, build.const(3)), m), {m: (0, 9)}) == (3, 3)

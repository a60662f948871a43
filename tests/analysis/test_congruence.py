from __future__ import annotations

import pytest

from attngen.analysis.congruence import common_divisor
from attngen.ir.expr import Expr
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr


def text(predicate: str) -> Expr:
    cascade = parse(f"cascade(a[m], b[n]; d: int, doc: int[:])\n x[m,n] = a[m] * b[n]  if {predicate}\n -> x")
    where = cascade.steps[0].where
    assert where is not None
    return where


@pytest.mark.parametrize(
    ("predicate", "divisor"),
    [
        ("(m - n) % 3 == 0", "3"),
        ("(n - m) % d == 0 and m >= n", "d"),
        ("m >= n and m % 4 == n % 4", "4"),
        ("n % d == m % d", "d"),
        ("(m - n) % 3 == 1", None),
        ("(m + n) % 3 == 0", None),
        ("(m - n + 1) % 3 == 0", None),
        ("(2 * m - n) % 3 == 0", None),
        ("m % 4 == n % 3", None),
        ("m % doc[n] == n % doc[n]", None),
        ("(m - n) % 3 == 0 or m == n", None),
        ("m >= n", None),
    ],
)
def test_what_is_seen(predicate: str, divisor: str | None) -> None:
    found = common_divisor(text(predicate), "m", "n")
    assert (None if found is None else print_expr(found)) == divisor


def test_no_mask() -> None:
    assert common_divisor(None, "m", "n") is None

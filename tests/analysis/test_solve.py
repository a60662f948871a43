from __future__ import annotations

import itertools

import pytest

from attngen.analysis.affine import linear
from attngen.analysis.intervals import Axes, Intervals
from attngen.analysis.solve import solve_comparison
from attngen.ir.printer import print_expr
from tests.analysis.brute import FUNCTIONS, may, must, value, whole

KEYS, ROWS, TILE = 9, 8, 3
SOLVED = {
    "m - n": "ge",
    "n - m": "gt",
    "m - n - w": "le",
    "2 * n - m": "ge",
    "m - 3 * n + 1": "gt",
    "n - 4": "eq",
    "m - n + w": "ne",
    "abs(m - n) - 2": "le",
    "abs(n - 4) - w": "ge",
    "max(n, m) - 5": "lt",
    "min(n, m) - w": "ge",
    "n // 3 - m // 3": "eq",
    "-(n // 2) + m": "ge",
    "2 * (n // c) - w": "gt",
    "n - m * c": "le",
    "n - m % 4": "ge",
    "n - m % c": "le",
    "n - abs(m - 4)": "lt",
    "n - where(m > 3, m, 1)": "le",
    "n - max(m, 3) + min(m, w)": "ge",
    "w - 2": "ge",
    "m - w": "ge",
}


def solve(text: str, op: str) -> Intervals:
    return solve_comparison(op, linear(whole(text)), Axes("n", "m"))


@pytest.mark.parametrize(("text", "op"), SOLVED.items())
def test_intervals_are_the_comparison(text: str, op: str) -> None:
    """In every tile: what a row may see is in `may`, what is in `must` every row sees; for a tile of one row both are exact."""
    form, found = whole(text), solve(text, op)
    for w, c in itertools.product((-2, 0, 3), (1, 2, 3)):
        for first in range(ROWS):
            for last in range(first, min(first + TILE, ROWS)):
                known = {"w": w, "c": c, "first": first, "last": last, "len_n": KEYS, "len_m": ROWS}
                held = [
                    {n for n in range(KEYS) if FUNCTIONS[op](value(form, {**known, "m": m, "n": n}), 0)} for m in range(first, last + 1)
                ]
                assert set().union(*held) <= may(found, known), known
                assert must(found, known) <= set.intersection(*held), known
                if first == last and "where" not in text:
                    assert may(found, known) == must(found, known) == held[0], known


@pytest.mark.parametrize("c", [-2, 0])
def test_divisors_below_one_are_not_believed(c: int) -> None:
    """Nothing is known of a quotient by a captured number that is not positive: all is visited, and masked."""
    found = solve("n // c - w", "ge")
    known = {"w": 1, "c": c, "first": 0, "last": 2, "len_n": KEYS, "len_m": ROWS}
    assert may(found, known) == set(range(KEYS))
    assert must(found, known) == set()


@pytest.mark.parametrize(
    ("text", "op", "bounds"),
    [
        ("m - n", "ge", "0 : last + 1 / 0 : first + 1"),
        ("m - n - w", "le", "first - w : extent(n) / last - w : extent(n)"),
        ("2 * n - w", "ge", "-(-w // 2) : extent(n) / -(-w // 2) : extent(n)"),
        ("n - doc[m]", "ge", "least_doc : extent(n) / most_doc : extent(n)"),
    ],
)
def test_bounds_are_short(text: str, op: str, bounds: str) -> None:
    (piece,) = solve(text, op).pieces
    spans = (f"{print_expr(span.lo)} : {print_expr(span.hi)}" for span in (piece.may, piece.must))
    assert " / ".join(spans) == bounds


@pytest.mark.parametrize("text", ["n * n - m", "n % 3 - m", "doc[n] - m", "max(n % 2, m) - 1", "n - m * m"])
def test_what_has_no_such_form_is_opaque(text: str) -> None:
    found = solve(text, "ge")
    assert not found.tight
    known = {"first": 0, "last": 1, "len_n": KEYS, "len_m": ROWS}
    assert (may(found, known), must(found, known)) == (set(range(KEYS)), set())

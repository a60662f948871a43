from __future__ import annotations

import pytest

from attngen.analysis.toeplitz import is_diagonal
from tests.analysis.brute import predicate, value, whole

DIAGONAL = (
    "m - n",
    "m - n + extent(n)",
    "min(abs(n - m), 3)",
    "(m - n) // 2 * w",
    "2 * m - w - 2 * n",
    "where(m >= n, m - n, 0)",
    "w + 3",
    "n + 1 - (m - 2) % c * 0 - n",
)
OTHERS = ("m + n", "m", "n - 2 * m", "m // 2 - n // 2", "(m - n) % 3 + n", "m * n", "where(m >= 2, m - n, 0)", "max(m, n)")


@pytest.mark.parametrize("text", DIAGONAL)
def test_pairs_on_a_diagonal_share_a_position(text: str) -> None:
    expr = whole(text)
    assert is_diagonal(expr, "m", "n") and is_diagonal(expr, "n", "m")
    known = {"w": 2, "c": 3, "len_n": 7, "len_m": 7}
    assert all(value(expr, {**known, "m": m, "n": n}) == value(expr, {**known, "m": m + 1, "n": n + 1}) for m in range(6) for n in range(6))


@pytest.mark.parametrize("text", OTHERS)
def test_others_do_not(text: str) -> None:
    assert not is_diagonal(whole(text), "m", "n")


def test_what_is_not_seen_is_not_claimed() -> None:
    assert not is_diagonal(whole("m // 1 - n // 1"), "m", "n")


def test_comparisons_count_by_their_difference() -> None:
    assert is_diagonal(predicate("m >= n + 2"), "m", "n")
    assert is_diagonal(predicate("m + w > n and n >= m - w"), "m", "n")
    assert not is_diagonal(predicate("m >= n and n > 0"), "m", "n")


def test_positions_read_from_a_table_go_by_theirs() -> None:
    assert is_diagonal(whole("doc[m - n]"), "m", "n")
    assert not is_diagonal(whole("doc[m] - doc[n]"), "m", "n")

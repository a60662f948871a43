from __future__ import annotations

import itertools
from functools import partial

import pytest

from attngen.analysis.affine import FIRST, LAST, linear
from attngen.analysis.intervals import MOST_PIECES, Axes, Intervals, MayMust, TileValue, both, either, gate, opaque, paired
from attngen.analysis.intervals import whole as one_piece
from attngen.analysis.solve import solve_comparison
from attngen.ir import build
from attngen.ir.expr import Index, Read
from attngen.ir.traverse import walk
from tests.analysis.brute import may, must, positions, value, whole

AXES = Axes("n", "m")
KEYS, ROWS = 9, 8
TEXTS = ("m - n", "n - m + 2", "n - 4", "w - n", "abs(n - m) - 2", "w - 2", "n // 3 - m // 3")


def solve(text: str) -> Intervals:
    """Of a comparison with 0."""
    return solve_comparison("ge", linear(whole(text)), AXES)


def held(text: str, known: dict[str, int], last: int) -> list[set[int]]:
    """The positions that each row of a tile may see."""
    form = whole(text)
    return [{n for n in range(KEYS) if value(form, {**known, "m": m, "n": n}) >= 0} for m in range(known["first"], last + 1)]


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(TEXTS, 2)))
@pytest.mark.parametrize("op", ["and", "or"])
def test_and_and_or_are_sound(a: str, b: str, op: str) -> None:
    """No position is lost from `may`, and none that some row does not see gets into `must`; without a gap nothing is widened."""
    found = (both if op == "and" else either)(solve(a), solve(b), AXES)
    for w, first, last in ((1, 0, 2), (5, 3, 5), (-1, 2, 2), (7, 6, 7)):
        known = {"w": w, "first": first, "last": last, "len_n": KEYS, "len_m": ROWS}
        rows = [x & y if op == "and" else x | y for x, y in zip(held(a, known, last), held(b, known, last), strict=True)]
        assert set().union(*rows) <= may(found, known), known
        assert must(found, known) <= set.intersection(*rows), known
        if first == last and op == "and":
            assert may(found, known) == must(found, known) == rows[0], known


def test_two_runs_with_a_gap_stay_two() -> None:
    """A window and the first keys: a hull would visit what lies between them."""
    first, window = solve("1 - n"), both(solve("n - m + 1"), solve("m - n"), AXES)
    found = either(first, window, AXES)
    assert len(found.pieces) == 2 and found.tight
    known = {"first": 7, "last": 7, "len_n": KEYS, "len_m": ROWS}
    assert may(found, known) == {0, 1, 6, 7}


def test_runs_that_touch_become_one() -> None:
    assert len(either(solve("m - n"), solve("m - n + 3"), AXES).pieces) == 1
    everything = either(solve("m - n"), gate(build.TRUE, build.TRUE, AXES), AXES)
    assert everything.pieces == (MayMust(AXES.everything, AXES.everything),)


def test_a_condition_and_a_run() -> None:
    """`flag or m >= n` is everything or a run, by the flag: no hull."""
    flag = Read("flag", (), "bool")
    found = either(gate(flag, flag, AXES), solve("m - n"), AXES)
    assert len(found.pieces) == 1 and found.tight
    for held in (False, True):
        known = {"flag": held, "first": 2, "last": 3, "len_n": KEYS, "len_m": ROWS}
        assert may(found, known) == (set(range(KEYS)) if held else {0, 1, 2, 3})
        assert must(found, known) == (set(range(KEYS)) if held else {0, 1, 2})


def test_more_pieces_than_a_kernel_walks_become_one() -> None:
    pieces = [solve_comparison("eq", linear(whole(f"n - {2 * i}")), AXES) for i in range(MOST_PIECES + 1)]
    few, many = (Intervals(tuple(x.pieces[0] for x in some)) for some in (pieces[:-1], pieces))
    assert len(both(few, gate(build.TRUE, build.TRUE, AXES), AXES).pieces) == MOST_PIECES
    found = both(many, gate(build.TRUE, build.TRUE, AXES), AXES)
    assert len(found.pieces) == 1 and not found.tight


def test_bounds_that_grow_without_end_are_given_up() -> None:
    found = solve("m - n")
    for i in range(60):
        found = both(found, solve(f"n - m // {i + 2} * w + {i}"), AXES)
    assert found == opaque(AXES)


def test_equal_parts_of_bounds_count_once() -> None:
    """Each bound has the same sum, built anew: a kernel computes it once, however many values of the compiler stand for it."""
    shared = " + ".join(f"m // {i} * w" for i in (2, 3, 5, 7, 11, 13))
    found = solve("m - n")
    for i in range(4):
        found = both(found, solve(f"n - {shared} - m // {20 + i}"), AXES)
    (piece,) = found.pieces
    assert len(set(walk(piece.may.lo))) < 80 < len(list(walk(piece.may.lo)))


def test_what_is_empty_for_every_row_is_no_piece() -> None:
    """A tile of several rows has positions between its first and its last row, but none of its rows sees them."""
    after_and_before = both(solve("n - m - 1"), solve("m - n - 1"), AXES)
    seen = either(after_and_before, solve("n - m - 3"), AXES)
    assert [piece.may.lo for piece in seen.pieces] == [build.add(FIRST, build.const(3))]


def test_the_may_of_one_and_the_must_of_another() -> None:
    weak, strong = solve("m - n + 2"), solve("m - n")
    (piece,) = paired(weak, strong, AXES).pieces
    assert (piece.may, piece.must) == (weak.pieces[0].may, strong.pieces[0].must)
    two = either(solve("1 - n"), solve("n - 6"), AXES)
    (hull,) = paired(two, strong, AXES).pieces
    assert positions(hull.may, {"first": 0, "last": 0, "len_n": KEYS, "len_m": ROWS}) == set(range(KEYS))


def test_a_hull_over_a_gap_is_not_tight() -> None:
    two = either(solve("1 - n"), solve("n - 6"), AXES)
    assert two.tight and not one_piece(two, AXES).tight
    known = {"first": 0, "last": 0, "len_n": KEYS, "len_m": ROWS}
    assert must(one_piece(two, AXES), known) <= must(two, known)


def test_captured_values_of_a_tile_have_one_name_each() -> None:
    axes = Axes("n", "m")
    near, far = (Read("doc", (at,), "int") for at in (Index("m"), Index("b")))
    first = axes.over_tile("least", near)
    assert axes.over_tile("least", near) == first == Read("least_doc", (), "int")
    others = {axes.over_tile("most", near).tensor, axes.over_tile("least", far).tensor}
    assert others == {"most_doc", "least_doc_"}
    assert axes.over["least_doc"] == TileValue("least", near)


def test_a_gate_is_everything_or_nothing() -> None:
    condition = partial(build.apply, "ge")
    found = gate(condition(LAST, build.const(4)), condition(FIRST, build.const(4)), AXES)
    for first, last, visited, full in ((0, 2, False, False), (3, 5, True, False), (4, 6, True, True)):
        known = {"first": first, "last": last, "len_n": KEYS, "len_m": ROWS}
        assert (bool(may(found, known)), bool(must(found, known))) == (visited, full)

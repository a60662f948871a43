from __future__ import annotations

import itertools

import pytest

from attngen.ir.cascade import Cascade, Input
from attngen.ir.expr import Expr, Read
from attngen.ir.parser import parse
from attngen.kernel.scatter import Scatter, by_step, is_injective, scatters, with_columns
from attngen.transform.autodiff.differentiate import Gradient
from tests.analysis.brute import value

TABLES = "; one: float[:], two: float[:, :], three: float[:, :, :], place: int[:, :, :], w: int"
LENGTHS = {"b": 2, "g": 2, "r": 3, "m": 4, "n": 5}


def at(read: str) -> tuple[Expr, ...]:
    """The position of a read of a captured tensor."""
    step = parse(f"cascade(q[b,g,r,m,d], k[b,g,n,d]{TABLES})\n  x[b,g,r,m,n] = {read}\n  -> x").steps[0]
    assert isinstance(step.body, Read)
    return step.body.at


FORMS = {
    "three[g * extent(r) + r,m,n]": ("grmn", "stored"),
    "three[b,n,m]": ("bmn", "stored"),
    "two[m,n]": ("mn", "stored"),
    "three[m,m,n]": ("mn", "stored"),
    "one[m - n + extent(n)]": ("mn", "diagonals"),
    "two[m - n + extent(n),g * extent(r) + r]": ("grmn", "diagonals"),
    "two[min(abs(n - m), w),max(m - n, 0)]": ("mn", "diagonals"),
    "one[m + n]": ("mn", "sorted"),
    "two[m,n // 2]": ("mn", "sorted"),
    "one[place[b,m,n]]": ("bmn", "sorted"),
}
"""The axes that a position names, and the form of its gradient."""


@pytest.mark.parametrize("read", FORMS)
def test_where_the_gradient_of_a_read_goes(read: str) -> None:
    """Pairs that have elements of their own are stored."""
    axes, form = FORMS[read]
    position, named = at(read), ",".join(axes)
    target = Input(read.split("[")[0], None, len(position))
    step = parse(f"cascade(a[{named}])\n  dt[{named}] = a[{named}]\n  -> dt").steps[0]
    cascade = Cascade((target,), (step,), ("dt",))
    found = scatters((Gradient(target.name, "dt", position),), cascade, ("m", "n"))["dt"]
    assert (found.form, found.target, found.at) == (form, target, position)


def test_gradients_of_one_side_alone_go_nowhere_else() -> None:
    step = parse("cascade(a[m])\n  dt[m] = a[m]\n  -> dt").steps[0]
    cascade = Cascade((Input("one", None, 1),), (step,), ("dt",))
    assert scatters((Gradient("one", "dt", at("one[m]")),), cascade, ("m", "n")) == {}


@pytest.mark.parametrize("read", [read for read in FORMS if "place" not in read])
def test_stored_is_where_no_two_positions_share_an_element(read: str) -> None:
    axes, form = FORMS[read]
    position = at(read)
    known = {f"len_{axis}": length for axis, length in LENGTHS.items()} | {"w": 2}
    points = list(itertools.product(*(range(LENGTHS[axis]) for axis in axes)))
    places = {tuple(value(expr, {**known, **dict(zip(axes, point, strict=True))}) for expr in position) for point in points}
    assert (len(places) == len(points)) == (form == "stored") == is_injective(position, tuple(axes))


def test_axes_that_a_position_does_not_name_collide() -> None:
    assert is_injective(at("two[m,n]"), ("m", "n"))
    assert not is_injective(at("two[m,n]"), ("b", "m", "n"))


@pytest.mark.parametrize(
    ("read", "apart", "columns", "axes"),
    [
        ("two[m - n + extent(n),g * extent(r) + r]", (), (1,), ("g", "r")),
        ("two[m - n + extent(n),g * extent(r) + r]", ("r",), (), ()),
        ("three[b,place[b,m,n],g]", (), (2,), ("g",)),
        ("three[b,m + n,g]", (), (0, 2), ("b", "g")),
        ("two[m + g,g]", (), (), ()),
        ("two[m + n,d]", (), (), ()),
    ],
)
def test_columns_are_axes_that_nothing_else_depends_on(
    read: str, apart: tuple[str, ...], columns: tuple[int, ...], axes: tuple[str, ...]
) -> None:
    position = at(read)
    found = with_columns(Scatter(Input("t", None, len(position)), "dt", position, "sorted"), ("b", "g", "r"), apart)
    assert (found.columns, found.column_axes) == (columns, axes)
    assert sorted((*found.keys, *found.columns)) == list(range(len(position)))


def test_what_is_stored_needs_no_columns() -> None:
    stored = Scatter(Input("t", None, 3), "dt", at("three[g,m,n]"), "stored")
    assert with_columns(stored, ("b", "g", "r"), ()) is stored


def test_in_the_order_of_the_outputs() -> None:
    one, two = (Scatter(Input(name, None, 1), f"d{name}", at("one[m + n]"), "sorted") for name in ("one", "two"))
    assert by_step({"done": one, "dtwo": two}, ("dtwo", "other", "done")) == (two, one)

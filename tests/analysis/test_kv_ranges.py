from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.analysis.affine import FIRST, LAST
from attngen.analysis.intervals import TileValue
from attngen.analysis.kv_ranges import KvRanges, describe, kv_ranges, solved
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, rewrite

N, M = Index("n"), Index("m")
SCALARS = (*(Input(name, None, 0, "int", True) for name in "wpc"), Input("flag", None, 0, "bool", True))
TABLES = (Input("doc", None, 1, "int"), Input("ends", None, 1, "int"))


@dataclass(frozen=True)
class Case:
    """A predicate over n (length `keys`) and m (length `rows`), and tiles of `tile` rows."""

    predicate: Expr
    keys: int
    rows: int
    tile: int
    scalars: Mapping[str, int | bool]

    def tiles(self) -> list[tuple[int, int]]:
        return [(first, min(first + self.tile, self.rows) - 1) for first in range(0, self.rows, self.tile)]

    def tables(self) -> dict[str, np.ndarray]:
        length = max(self.rows, self.keys)
        return {"doc": np.arange(length) // 3, "ends": np.random.default_rng(self.keys).integers(-2, length + 3, length)}

    def truth(self) -> np.ndarray:
        """[rows, keys]"""
        inputs = (Input("a", ("m",), 1), Input("b", ("n",), 1), *SCALARS, *TABLES)
        cascade = Cascade(inputs, (Einsum("x", ("m", "n"), build.ONE, where=self.predicate),), ("x",))
        values = {"a": np.zeros(self.rows), "b": np.zeros(self.keys), **self.tables(), **self.scalars}
        return interpret(cascade, values)["x"] > 0

    def bounds(self, ranges: KvRanges) -> list[list[tuple[int, int, int, int]]]:
        """some_lo, some_hi, all_lo, all_hi of every piece, for every tile."""

        over = {name: self.over(value) for name, value in ranges.over}

        def at_tile(node: Expr) -> Expr | None:
            of_tile = isinstance(node, Read) and (node in (FIRST, LAST) or node.tensor in over)
            return Read(node.tensor, (Index("t"),), "int") if of_tile and isinstance(node, Read) else None

        steps = tuple(Einsum(f"r{i}", ("t",), rewrite(expr, at_tile)) for i, expr in enumerate(ranges.bounds))
        tiles = tuple(Input(name, ("t",), 1, "int") for name in ("first", "last", *over))
        cascade = Cascade((Input("a", ("m",), 1), Input("b", ("n",), 1), *tiles, *SCALARS), steps, ("r0",))
        first, last = np.array(self.tiles()).T
        values = {"a": np.zeros(self.rows), "b": np.zeros(self.keys), "first": first, "last": last, **over, **self.scalars}
        found = interpret(cascade, values)
        rows = np.stack([found[step.name] for step in steps], axis=1).astype(int).tolist()
        return [[tuple(row[i : i + 4]) for i in range(0, len(row), 4)] for row in rows]

    def over(self, value: TileValue) -> np.ndarray:
        """The least or greatest of a captured value in each tile."""
        axis = "m" if "m" in free_axes(value.read) else "n"
        rows = Einsum("x", (axis,), Apply("to_float", (value.read,)))
        inputs = (Input("a", (axis,), 1), *SCALARS, *TABLES)
        found = interpret(Cascade(inputs, (rows,), ("x",)), {"a": np.zeros(self.rows), **self.tables(), **self.scalars})["x"]
        pick = np.min if value.which == "least" else np.max
        return np.array([int(pick(found[first : last + 1])) for first, last in self.tiles()])


_CAPTURES = "w: int, p: int, c: int, flag: bool, doc: int[:], ends: int[:]"


def text(predicate: str) -> Expr:
    cascade = parse(f"cascade(a[m], b[n]; {_CAPTURES})\n x[m,n] = a[m] * b[n]  if {predicate}\n -> x")
    where = cascade.steps[0].where
    assert where is not None
    return where


@st.composite
def atoms(draw: st.DrawFn) -> Expr:
    coefficient = st.integers(-2, 2).map(build.const)
    terms = [build.mul(draw(coefficient), N), build.mul(draw(coefficient), M)]
    constant = draw(st.one_of(st.integers(-6, 6).map(build.const), st.sampled_from([Read("w", (), "int"), Extent("n"), Extent("m")])))
    linear = build.add(build.add(terms[0], terms[1]), constant)
    other = draw(st.one_of(st.integers(-6, 9).map(build.const), st.sampled_from([Read("p", (), "int"), N, M, build.const(2.5)])))
    shape = draw(
        st.sampled_from(
            [
                "plain",
                "plain",
                "abs",
                "max",
                "min",
                "where",
                "opaque",
                "flag",
                "doc",
                "multiple",
                "quotient",
                "rest",
                "chunk",
                "ends",
                "local",
            ]
        )
    )
    op = draw(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]))
    match shape:
        case "abs":
            linear = build.apply("abs", linear)
        case "max" | "min":
            linear = build.apply(shape, linear, build.sub(M, N))
        case "where":
            linear = build.apply("where", Apply("lt", (M, Read("p", (), "int"))), linear, N)
        case "multiple":
            linear = build.sub(other, build.mul(build.const(2), build.apply("abs", linear)))
        case "opaque":
            return text("m * n % 3 == 0")
        case "flag":
            return Read("flag", (), "bool")
        case "doc":
            return text("doc[m] == doc[n]")
        case "quotient" | "rest":
            c = draw(st.one_of(st.integers(-1, 4).filter(bool).map(build.const), st.just(Read("c", (), "int"))))
            linear = build.apply("floordiv" if shape == "quotient" else "mod", linear, c)
        case "chunk":
            return text(draw(st.sampled_from(["m // c == n // c", "m // 3 >= n // 2", "n // c <= m // c and m // c - n // c < 2"])))
        case "ends":
            return text(draw(st.sampled_from(["n < ends[m]", "n >= ends[m] - w and n < ends[m] // 2", "ends[n] > m", "m == ends[n]"])))
        case "local":
            return text("doc[m] == doc[n] and m - ends[doc[m]] >= n - ends[doc[n]]")
        case _:
            pass
    return Apply(op, (linear, other)) if draw(st.booleans()) else Apply(op, (other, linear))


predicates = st.recursive(
    atoms(),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(lambda t: Apply(t[0], (t[1], t[2]))),
        inner.map(lambda p: Apply("not", (p,))),
        st.tuples(inner, inner).map(lambda t: Apply("eq", t)),
    ),
    max_leaves=4,
)
cases = st.builds(
    Case,
    predicates,
    keys=st.integers(1, 12),
    rows=st.integers(1, 12),
    tile=st.integers(1, 5),
    scalars=st.fixed_dictionaries(
        {"w": st.integers(-3, 9), "p": st.integers(-3, 12), "c": st.integers(-3, 5).filter(bool), "flag": st.booleans()}
    ),
)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_ranges_are_sound(case: Case) -> None:
    truth = case.truth()
    ranges = kv_ranges(case.predicate, "n", "m")
    bounds = case.bounds(ranges)
    for (first, last), pieces in zip(case.tiles(), bounds, strict=True):
        tile = truth[first : last + 1]
        outside = np.ones(case.keys, bool)
        for some_lo, some_hi, all_lo, all_hi in pieces:
            assert some_lo >= 0 and all_lo >= 0 and some_hi <= case.keys and all_hi <= case.keys
            outside[some_lo : max(some_hi, some_lo)] = False
            if all_lo < all_hi:
                assert tile[:, all_lo:all_hi].all(), (print_expr(case.predicate), describe(ranges))
                assert some_lo <= all_lo and all_hi <= some_hi
        assert not tile[:, outside].any(), (print_expr(case.predicate), describe(ranges))
        assert [piece[0] for piece in pieces] == sorted(piece[0] for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_a_solved_mask_is_the_mask(case: Case) -> None:
    for stream, other in ((N, M), (M, N)):
        span, left = solved(case.predicate, stream.axis)
        assert stream.axis not in (*free_axes(span.lo), *free_axes(span.hi)), f"{other.axis} alone limits a row"
        limits = Apply("ge", (stream, span.lo)), Apply("lt", (stream, span.hi))
        again = replace(case, predicate=build.both(*limits, *left) or build.TRUE)
        assert np.array_equal(again.truth(), case.truth()), print_expr(again.predicate)


@pytest.mark.parametrize(
    ("predicate", "span", "left"),
    [
        ("m >= n", "[0, m + 1)", ()),
        ("m >= n and m - n < w", "[m - w + 1, min(m + 1, extent(n)))", ()),
        ("abs(m - n) <= 2 and flag", "[max(m - 2, 0), min(m + 3, where(flag, extent(n), 0)))", ()),
        ("n < p or n <= m", "[0, max(p, m + 1))", ()),
        ("m // 4 == n // 4", "[max(0, 4 * (m // 4)), min(4 * (m // 4) + 4, extent(n)))", ()),
        ("doc[m] == doc[n] and m >= n", "[0, m + 1)", ("doc[m] == doc[n]",)),
        ("doc[m] == doc[n] and m - ends[doc[m]] >= n - ends[doc[n]]", "[0, m + 1)", ("doc[m] == doc[n]",)),
        ("n < 3 or n > m", "[0, extent(n))", ("n < 3 or n > m",)),
    ],
)
def test_masks_are_solved_for_the_streamed_position(predicate: str, span: str, left: tuple[str, ...]) -> None:
    found, rest = solved(text(predicate), "n")
    assert (f"[{print_expr(found.lo)}, {print_expr(found.hi)})", tuple(map(print_expr, rest))) == (span, left)


COMMON = {
    "causal": "m >= n",
    "strictly causal": "m > n",
    "bottom-right causal": "m + extent(n) - extent(m) >= n",
    "sliding window": "m >= n and m - n < w",
    "two-sided window": "abs(m - n) <= w",
    "prefix": "m >= n or n < p",
    "length": "n < p",
    "causal with length": "m >= n and n < p",
    "row length": "m < p",
    "stretched": "2 * m >= 3 * n + 1",
    "diagonal": "m == n",
    "fractional": "m - n < 2.5 and m - n >= -1.5",
    "fractional, mirrored": "2.5 >= m - n and -1.5 < m - n",
    "switch": "flag or m >= n",
    "chunks": "m // c == n // c",
    "causal chunks": "m // 4 >= n // 4",
    "neighbouring chunks": "m // c >= n // c and m // c <= n // c + 1",
    "chunks of a difference": "(m - n) // 3 < 2 and m >= n",
    "all but the diagonal": "m != n",
    "outside of a window": "abs(m - n) > w",
}
"""Every position and every FULL one is known."""
UNIONS = {
    "first keys and a window": "m >= n and (n < 2 or m - n < w)",
    "first keys and a two-sided window": "n < p or abs(m - n) <= w",
    "first rows and keys, and a window": "m < p or n < p or abs(m - n) <= w",
}
"""Every position is known, but not that some rows attend to it for one reason and some for another."""


@pytest.mark.parametrize("predicate", (COMMON | UNIONS).values(), ids=(COMMON | UNIONS).keys())
@pytest.mark.parametrize("transposed", [False, True])
def test_common_masks_are_tight(predicate: str, transposed: bool) -> None:
    for keys, rows, tile, w, p, c in [
        (16, 16, 4, 6, 5, 3),
        (7, 12, 5, 2, 11, 2),
        (13, 6, 3, 1, 0, 5),
        (9, 9, 1, 20, 20, 4),
        (1, 5, 2, 0, 1, 1),
    ]:
        for flag in (False, True):
            case = Case(text(predicate), keys, rows, tile, {"w": w, "p": p, "c": c, "flag": flag})
            truth = case.truth()
            if transposed:
                case = Case(_swap(case.predicate), rows, keys, tile, case.scalars)
                truth = truth.T
                np.testing.assert_array_equal(truth, case.truth())
            _assert_tight(case, truth, predicate in COMMON.values())


@pytest.mark.parametrize("predicate", ["n <= m % c", "n < 3 - m % 4", "n >= (m + w) % c and n < 8"])
@pytest.mark.parametrize(("c", "tile"), [(3, 2), (5, 5), (4, 1), (8, 3), (1, 4)])
def test_remainders_of_rows_are_tight(predicate: str, c: int, tile: int) -> None:
    """Within a period and across its end."""
    case = Case(text(predicate), 9, 12, tile, {"w": 5, "p": 0, "c": c, "flag": False})
    _assert_tight(case, case.truth(), full=True)


def _swap(predicate: Expr) -> Expr:
    other = {"m": "n", "n": "m"}

    def rule(node: Expr) -> Expr | None:
        return type(node)(other[node.axis]) if isinstance(node, Index | Extent) else None

    return rewrite(predicate, rule)


def _assert_tight(case: Case, truth: np.ndarray, full: bool) -> None:
    ranges = kv_ranges(case.predicate, "n", "m")
    assert ranges.tight
    for (first, last), pieces in zip(case.tiles(), case.bounds(ranges), strict=True):
        some, every = truth[first : last + 1].any(0), truth[first : last + 1].all(0)
        assert {n for lo, hi, _, _ in pieces for n in range(lo, hi)} == set(np.flatnonzero(some))
        found = {n for _, _, lo, hi in pieces for n in range(lo, hi)}
        assert found == set(np.flatnonzero(every)) if full else found <= set(np.flatnonzero(every))


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("m >= n", "visits n in [0, min(last + 1, extent(n))), unmasked in [0, min(first + 1, extent(n)))"),
        ("n < p", "visits n in [0, min(p, extent(n))), nothing masked"),
        ("doc[m] == doc[n]", "visits n in [0, extent(n)), all of it masked"),
        ("flag", "visits n in [0, where(flag, extent(n), 0)), nothing masked"),
        ("m >= n or n < p", "visits n in [0, min(max(last + 1, p), extent(n))), unmasked in [0, min(max(first + 1, p), extent(n)))"),
        (
            "m >= n and (n < p or m - n < w)",
            "visits n in [0, min(min(last + 1, p), extent(n))) and [max(0, first - w + 1), min(last + 1, extent(n))), "
            "unmasked in [0, min(min(first + 1, p), extent(n))) and [max(0, last - w + 1), min(first + 1, extent(n)))",
        ),
        (
            "m + extent(n) - extent(m) >= n",
            "visits n in [0, last + extent(n) - extent(m) + 1), unmasked in [0, first + extent(n) - extent(m) + 1)",
        ),
    ],
)
def test_bounds_are_short(predicate: str, expected: str) -> None:
    assert describe(kv_ranges(text(predicate), "n", "m")) == expected


def test_no_mask_is_full() -> None:
    ranges = kv_ranges(None, "n", "m")
    assert ranges.unmasked
    assert ranges.bounds == (build.const(0), Extent("n")) * 2


def test_transposed_causal_starts_at_the_tile() -> None:
    ranges = kv_ranges(text("m >= n"), "m", "n")
    assert ranges.bounds == (FIRST, Extent("m"), LAST, Extent("m"))

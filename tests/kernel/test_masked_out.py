"""What masks take from every row, and which rows they leave without keys: held against all pairs of small sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest

from attngen.ir import build
from attngen.ir.cascade import Input
from attngen.ir.expr import Expr, Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.ir.traverse import rewrite
from attngen.kernel.kernel import Kernel
from attngen.kernel.masked_out import cleared, has_key, partners, project_mask, projected_mask, quieted, row_count, silent_rows
from attngen.pipeline import analyse
from tests import variants
from tests.analysis.brute import predicate, value
from tests.kernel.computed import close, computed, drawn, kernels

ROWS, KEYS = range(5), range(6)
LENGTHS = {"len_m": len(ROWS), "len_n": len(KEYS)}
NUMBERS = [{"w": w, "c": c} for w, c in itertools.product((-1, 0, 2, 7), (1, 3))]
MASKS = {
    "n < w and m >= n": ("n < w", None),
    "n < w": ("n < w", None),
    "m >= n": (None, None),
    "m >= n and m < c": (None, "m < c"),
    "n < w or m == n": (None, None),
    "n < w and (n > c or m >= n)": ("n < w", None),
    "not (n >= w or m < n)": ("not n >= w", None),
    "not (n >= w and m < n)": (None, None),
    "n >= c and n < w and m < 3": ("n >= c and n < w", "m < 3"),
    "m - n < w and c > 2": (None, None),
}
"""What each asks of a key by itself, and of a row."""


@pytest.mark.parametrize("text", MASKS)
def test_what_a_mask_asks_of_one_side(text: str) -> None:
    mask = predicate(text)
    for axis, other, expected in zip("nm", "mn", MASKS[text], strict=True):
        found = project_mask(mask, axis, other)
        assert (None if found is None else print_expr(found)) == expected
        if found is not None:
            for known in NUMBERS:
                pairs = ({**known, **LENGTHS, "m": m, "n": n} for m in ROWS for n in KEYS)
                assert all(value(found, pair) for pair in pairs if value(mask, pair)), known


def test_what_is_computed_is_not_known_beforehand() -> None:
    cascade = parse("cascade(a[n], b[m])\n  t[n] = a[n] * 2.0\n  x[m,n] = a[n] * b[m]  if t[n] > 0.0 and n < 3\n  -> x")
    found = project_mask(cascade.steps[1].where, "n", "m", ["t"])
    assert found is not None and print_expr(found) == "n < 3"
    assert project_mask(None, "n", "m") is None


SEEING = {
    "m >= n": True,
    "m >= n and m - n <= 2": False,
    "n < w": True,
    "n <= m + 1": True,
    "n < max(m, 1)": True,
    "n <= m // 2": False,
    "n < m": False,
    "m <= n": False,
    "m >= n or n < 2": True,
    "n <= m and n < w": True,
}
"""Masks, and whether every row is known to have a key unless no row has one."""


@pytest.mark.parametrize("text", SEEING)
def test_rows_that_are_known_to_have_a_key_have_one(text: str) -> None:
    mask = predicate(text)
    assert has_key(mask, "n", "m") == SEEING[text]
    if SEEING[text]:
        for known in NUMBERS:
            rows = {m: any(value(mask, {**known, **LENGTHS, "m": m, "n": n}) for n in KEYS) for m in ROWS}
            assert len(set(rows.values())) == 1, (known, rows)


def masked(mask: str) -> str:
    return variants.SOFTMAX.replace("v[b,g,n,e])", "v[b,g,n,e]; w: int, len: int[:])").replace("* 0.25", f"* 0.25  if {mask}")


@pytest.mark.parametrize(
    ("mask", "alive", "seeing"),
    [
        ("m >= n", None, None),
        ("n < len[b]", None, None),
        ("m >= n and m - n < w", "lse[b,g,r,m] != -inf", "extent(m) <= extent(n), 0 < w"),
        ("abs(m - n) <= 3", "lse[b,g,r,m] != -inf", "extent(m) <= extent(n)"),
        ("m >= n + 1", "lse[b,g,r,m] != -inf", ""),
        ("m - n < len[b]", "lse[b,g,r,m] != -inf", ""),
    ],
)
def test_rows_without_keys(mask: str, alive: str | None, seeing: str | None) -> None:
    """By which statistic they are told, and under which comparisons of numbers there are none."""
    program = analyse(parse(masked(mask)))
    inputs = (*program.cascade.inputs, Input("w", None, 0, "int", True))
    assert program.backward is not None
    found = silent_rows(program.backward.forward, inputs, {item.name for item in program.backward.saved})
    if alive is None:
        assert found is None
    else:
        assert found is not None and found.alive is not None
        assert print_expr(found.alive) == alive
        assert ", ".join(map(print_expr, found.seeing)) == seeing


ENDS = {
    "n < len[b]": {"forward": "v", "backward_rows": "k v", "backward_columns": "k v"},
    "n < len[b] and m >= n": {"forward": "v", "backward_rows": "k v", "backward_columns": "k v"},
    "m < len[b]": {"forward": "q", "backward_rows": "dl_i do lse_safe q", "backward_columns": "do q"},
    "m >= n": {},
}
"""What each kernel reads as 0 there."""


def otherwise(kernel: Kernel, kept: Mapping[str, Expr]) -> Kernel:
    """A kernel whose inputs hold something else where a predicate of their position fails."""

    def rule(node: Expr) -> Expr | None:
        kept_at = kept.get(node.tensor) if isinstance(node, Read) else None
        return None if kept_at is None else build.apply("where", kept_at, node, build.const(100.0))

    return replace(kernel, steps=tuple(replace(step, body=rewrite(step.body, rule)) for step in kernel.steps))


@pytest.mark.parametrize("mask", ENDS)
def test_nothing_depends_on_what_is_cleared(mask: str) -> None:
    """What may read as 0 may be anything."""
    for role, kernel in kernels(masked(mask)).items():
        kept = cleared(kernel)
        assert " ".join(sorted(kept)) == ENDS[mask].get(role, "")
        values = drawn(kernel.inputs, {"len": (2,)})
        if kept:
            changed = otherwise(kernel, kept)
            assert changed != kernel
            close(computed(changed, values), computed(kernel, values))


def test_cotangents_of_rows_without_keys_are_quieted() -> None:
    rows, columns = (kernels(masked("m < len[b]"))[role] for role in ("backward_rows", "backward_columns"))
    assert set(quieted(rows)) == set(quieted(columns)) == {"do", "dl_i"}
    assert quieted(kernels(masked("m >= n"))["backward_rows"]) == {}


@pytest.mark.parametrize(
    ("mask", "end"),
    [("n < len[b] and m >= n", "len[b]"), ("n < min(len[b], 9)", "min(len[b], 9)"), ("n < len[b] and n > 2", None), ("m >= n", None)],
)
def test_the_end_of_rows(mask: str, end: str | None) -> None:
    """One number behind which no key counts, if that is all that a mask asks of keys."""
    kernel = kernels(masked(mask))["forward"]
    kept = projected_mask(kernel, "n")
    found = None if kept is None else row_count(kernel, kept)
    assert (None if found is None else print_expr(found)) == end


def test_kernels_of_rows_alone_have_no_partners() -> None:
    found = kernels(variants.SOFTMAX)
    assert partners(found["backward_prepare"]) == ()
    assert partners(found["backward_columns"]) == (("n", "m"), ("m", "n"))

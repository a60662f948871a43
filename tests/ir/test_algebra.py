from __future__ import annotations

import pytest

from attngen.ir import build
from attngen.ir.algebra import counted_terms, factors, linear, linear_sum, product, signed_sum, signed_terms
from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr

A, B, C = (Read(name, ()) for name in "abc")


def expression(text: str) -> Expr:
    return parse(f"cascade(a[], b[], c[])\n  y = {text}\n  -> y").steps[0].body


def test_factors_and_product() -> None:
    assert factors(expression("a * (b * c) * a")) == (A, B, C, A)
    assert factors(expression("a + b")) == (expression("a + b"),)
    assert product((A, B), 2.0) == expression("a * b * 2.0")
    assert product(()) == build.ONE


def test_signed_terms_and_sum() -> None:
    terms = signed_terms(expression("a - (b - c) - -a"))
    assert terms == [(1, A), (-1, B), (1, C), (1, A)]
    assert print_expr(signed_sum(terms)) == "a - b + c + a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 * (a - b) - a", {A: 1.0, B: -2.0}),
        ("(a - b) / 2 + 0.5 * b", {A: 0.5}),
        ("-(a + a) * 3.0", {A: -6.0}),
        ("a * b + c", {expression("a * b"): 1.0, C: 1.0}),
        ("a - a", {}),
    ],
)
def test_linear(text: str, expected: dict[Expr, float]) -> None:
    assert linear(expression(text)) == expected


def test_linear_opens_terms() -> None:
    meaning = {C: {A: 2.0, B: 1.0}}
    assert linear(expression("a - 3 * c"), meaning.get) == {A: -5.0, B: -3.0}


def test_linear_sum() -> None:
    assert print_expr(linear_sum({A: 1.0, B: -1.0, C: 2.0})) == "a - b + c * 2.0"
    assert linear_sum({}) == build.ZERO


def doubled(steps: int) -> Expr:
    """a + a, again and again."""
    x: Expr = build.read("a", ("m",))
    for _ in range(steps):
        x = Apply("add", (x, x))
    return x


def test_sums_of_shared_sums_are_taken_apart_once_a_node() -> None:
    a = build.read("a", ("m",))
    assert counted_terms(doubled(60)) == {a: 2**60}
    assert linear(doubled(60)) == {a: 2.0**60}
    assert counted_terms(Apply("sub", (a, Apply("neg", (build.ONE,))))) == {a: 1, build.ONE: 1}
    assert counted_terms(Apply("sub", (a, a))) == {a: 0}

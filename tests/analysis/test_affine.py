from __future__ import annotations

from attngen.analysis.affine import FIRST, LAST, at_least, compare_least, largest, linear, smallest
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.printer import print_expr

W = Read("w", (), "int")
M = Index("m")


def plus(expr: Expr, number: int) -> Expr:
    return build.add(expr, build.const(number))


def test_order_of_terms_does_not_matter() -> None:
    a, b = build.sub(build.add(W, M), build.const(2)), build.add(build.sub(M, build.const(2)), W)
    assert dict(linear(a).terms) == dict(linear(b).terms)
    assert linear(a).constant == linear(b).constant == -2


def test_terms_that_cancel_are_gone() -> None:
    assert linear(build.sub(build.mul(build.const(3), W), build.apply("add", W, build.add(W, W)))).terms == ()


def test_text_puts_what_is_added_first() -> None:
    assert print_expr(linear(build.sub(build.const(4), build.mul(build.const(2), W))).expr()) == "4 - 2 * w"
    assert print_expr(linear(build.sub(FIRST, plus(W, 1))).expr()) == "first - w - 1"


def test_known_orders() -> None:
    assert at_least(LAST, FIRST, "m")
    assert at_least(Extent("m"), plus(LAST, 1), "m")
    assert not at_least(Extent("n"), LAST, "m")
    assert not at_least(FIRST, LAST, "m")
    assert not at_least(W, build.const(0), "m")
    assert at_least(build.apply("max", W, LAST), FIRST, "m")
    assert at_least(Apply("where", (build.TRUE, LAST, Extent("m"))), FIRST, "m")
    assert at_least(Extent("n"), build.apply("min", W, Extent("n")), "m")


def test_comparison_folds_where_the_order_is_known() -> None:
    assert compare_least(plus(LAST, 1), FIRST, "m") == build.TRUE
    assert compare_least(FIRST, plus(LAST, 1), "m") == build.FALSE
    assert print_expr(compare_least(W, plus(FIRST, 1), "m")) == "w > first"


def test_extremes_drop_what_never_wins() -> None:
    assert largest(build.const(0), FIRST, "m") == FIRST
    assert largest(build.apply("max", FIRST, W), LAST, "m") == build.apply("max", W, LAST)
    assert smallest(build.apply("max", Extent("n"), W), Extent("n"), "m") == Extent("n")


def test_parts_that_bounds_share_are_compared_once() -> None:
    """A bound of twenty levels, each of which is used twice, takes as long as it has parts."""

    def deep(seed: int) -> Expr:
        bound: Expr = LAST if seed else FIRST
        for i in range(20):
            inner, outer = ("min", "max") if i % 2 else ("max", "min")
            sides = (build.apply(op, bound, Read(f"{op}{i}{seed}", (), "int")) for op in (inner, outer))
            bound = build.apply(outer, *sides)
        return bound

    assert not at_least(deep(0), deep(1), "m")


def test_sums_of_shared_parts_are_formed_once() -> None:
    total: Expr = build.add(M, W)
    for _ in range(60):
        total = build.add(total, total)
    assert linear(total).terms == ((M, 2**60), (W, 2**60))

"""Which inputs stream as rows of a matrix, so that a descriptor can fetch their tiles."""

from __future__ import annotations

import pytest

from attngen.ir import build
from attngen.ir.expr import Index, Read
from attngen.kernel.dense_rows import is_matrix, looped_axes, streamed_rows
from tests import variants
from tests.kernel.computed import kernels

STREAMED = {
    "softmax": {"forward": "k v", "backward_prepare": "", "backward_rows": "k v", "backward_columns": "q do"},
    "differential": {"forward": "k1 k2 v", "backward_prepare": "", "backward_rows": "k1 k2 v", "backward_columns": "q1 q2 do"},
    "gate": {"forward": "k v", "backward_prepare": "", "backward_rows": "k v", "backward_columns": "q dz"},
}


@pytest.mark.parametrize("name", STREAMED)
def test_what_streams_as_rows(name: str) -> None:
    assert {role: " ".join(streamed_rows(kernel)) for role, kernel in kernels(variants.ALL[name]).items()} == STREAMED[name]


def test_pairs_that_sum_over_heads_have_no_rows_that_a_loop_goes_through() -> None:
    assert streamed_rows(kernels(variants.LEARNED_BIAS)["backward_pairs_2"]) == ()


FORWARD = kernels(variants.SOFTMAX)["forward"]
COLUMNS = kernels(variants.SOFTMAX)["backward_columns"]


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (build.read("k", ("b", "g", "n", "d")), True),
        (build.read("q", ("b", "g", "r", "m", "d")), False),
        (build.read("w", ("b", "g", "n", "d")), False),
        (Read("k", (Index("b"), Index("g"), build.apply("floordiv", Index("n"), build.const(2)), Index("d"))), False),
        (build.read("k", ("b", "g", "d", "n")), False),
        (build.read("k", ("b", "n", "g", "d")), True),
        (build.read("k", ("b", "g", "n")), False),
    ],
    ids=["keys", "rows stay", "no input", "every second row", "features first", "heads between", "no features"],
)
def test_rows_of_a_matrix(read: Read, found: bool) -> None:
    assert is_matrix(read, FORWARD) == found


def test_a_stack_that_a_loop_goes_through() -> None:
    """Query heads take turns in a kernel of keys."""
    read = build.read("q", ("b", "g", "r", "m", "d"))
    assert is_matrix(read, COLUMNS) and looped_axes(read, COLUMNS) == ("r",)
    assert looped_axes(build.read("k", ("b", "g", "n", "d")), COLUMNS) == ()

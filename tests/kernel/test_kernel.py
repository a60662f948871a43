from __future__ import annotations

from dataclasses import replace

from attngen.ir import build
from attngen.ir.parser import parse
from attngen.kernel.kernel import BiasDot, DocumentExtents
from tests import variants
from tests.kernel.computed import kernels

FORWARD = kernels(variants.CAUSAL_ALIBI)["forward"]


def test_a_kernel_is_a_cascade_of_its_own() -> None:
    backward = kernels(variants.SOFTMAX)["backward_rows"]
    assert parse(str(backward.cascade)) == backward.cascade
    assert backward.axes("dx") == ("b", "g", "r", "m", "n")
    assert backward.axes("k") == ("b", "g", "n", "d")


def test_bounds_are_found_from_extents_where_there_are_any() -> None:
    assert FORWARD.bounding == (FORWARD.may_mask, FORWARD.must_mask)
    assert replace(FORWARD, extent_masks=(None, build.TRUE)).bounding == (None, build.TRUE)


def test_states_of_parts_are_what_streams_in_one_that_combines_them() -> None:
    assert not FORWARD.combines_splits
    assert not replace(FORWARD, split_axis="part").combines_splits
    assert replace(FORWARD, split_axis="part", streamed="part").combines_splits


def test_turns_lie_inside_of_the_stream_where_tiles_are_summed() -> None:
    found = kernels(variants.LEARNED_BIAS)
    assert found["backward_pairs"].sums_tiles and not found["backward_pairs"].in_chunks
    assert found["backward_pairs_2"].sums_tiles and found["backward_pairs_2"].in_chunks
    assert not found["backward_columns"].sums_tiles


def test_products_are_as_deep_as_units_multiply() -> None:
    column = ((build.ONE, 0), (build.ONE, 0))
    widths = [BiasDot("x", build.read("s", ("m", "n")), (column,) * columns).width for columns in (1, 16, 17, 32)]
    assert widths == [16, 16, 32, 32]


def test_extents_of_documents_in_the_order_of_the_host() -> None:
    assert DocumentExtents("doc", "keys", "first", "last", "run", 1).names == ("first", "last", "run")

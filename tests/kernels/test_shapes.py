"""Lengths, blocks, head dims and head groups that no power of two divides, all in float64 and exact."""

from __future__ import annotations

import pytest

from tests.kernels import cases, harness

LENGTHS = [(1, 1), (1, 100), (100, 1), (63, 100), (100, 63), (0, 63), (63, 0), (0, 0)]
DIMS = [(8, 8), (24, 40), (40, 24), (64, 96), (72, 80), (80, 72), (96, 64), (16, 3), (1, 16), (112, 240)]
GROUPS = [(1, 4), (2, 3), (1, 6), (3, 1)]
BLOCKS = [(16, 32), (32, 16), (32, 128), (128, 32)]
OF_FEATURES = ["softmax", "causal_alibi", "relu", "gate", "differential", "entropy", "sink", "learned_bias"]
OF_HEADS = ["causal_alibi", "sink", "gate", "differential", "learned_bias", "sigmoid_causal", "documents"]


def check(variant: str, sizes: cases.Sizes, tile: harness.Tiles | None = None) -> None:
    case = cases.case(variant, sizes)
    found = harness.run(case.cascade, case.values, case.cotangents, tile)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize(("rows", "keys"), LENGTHS)
@pytest.mark.parametrize("variant", cases.ALL)
def test_lengths(variant, rows, keys):
    check(variant, cases.Sizes(b=1, g=1, r=1, m=rows, n=keys))


@pytest.mark.parametrize("block", BLOCKS, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("variant", cases.ALL)
def test_blocks(variant, block):
    check(variant, cases.Sizes(b=1, g=1, r=1, m=90, n=70), harness.tiles(*block))


@pytest.mark.parametrize(("keys", "values"), DIMS)
@pytest.mark.parametrize("variant", OF_FEATURES)
def test_head_dims(variant, keys, values):
    check(variant, cases.Sizes(b=1, g=1, r=2, m=40, n=70, d=keys, e=values))


@pytest.mark.parametrize(("groups", "rows"), GROUPS)
@pytest.mark.parametrize("variant", OF_HEADS)
def test_grouped_heads(variant, groups, rows):
    check(variant, cases.Sizes(b=3, g=groups, r=rows, m=40, n=50))


@pytest.mark.parametrize("empty", ["b", "g", "r"])
@pytest.mark.parametrize("variant", ["softmax", "differential", "learned_bias"])
def test_nothing_at_all(variant, empty):
    """No batches, or no heads: no program runs, and results have the right shapes."""
    check(variant, cases.Sizes(**{"b": 2, "g": 2, "r": 2, "m": 10, "n": 12, empty: 0}))

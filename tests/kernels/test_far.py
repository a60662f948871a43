"""Tensors whose elements lie beyond 2**31 from their first: offsets are 64 bits wide wherever that can happen."""

from __future__ import annotations

import pytest
import torch

from attngen.ir.parser import parse
from tests.kernels import cases, harness, memory, programs, suite

DEEP = {
    "b": cases.Sizes(b=3, g=1, r=1, m=20, n=20),
    "g": cases.Sizes(b=1, g=3, r=1, m=20, n=20),
    "r": cases.Sizes(b=1, g=1, r=3, m=20, n=20),
}


def check(case: cases.Case, far: cases.Case) -> None:
    found = harness.run(case.cascade, far.values, far.cotangents)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize("axis", ["b", "g", "r", "m", "n"])
@pytest.mark.parametrize("variant", ["causal", "gate", "entropy"])
def test_far_arguments(variant, axis):
    case = cases.case(variant, DEEP.get(axis, suite.LONG))
    check(case, suite.stretched(case, axis))


@pytest.mark.parametrize(
    ("name", "dim"), [("bias", 0), ("bias", 1), ("bias", 2), ("table", 0), ("col", 0), ("col", 1), ("row", 0), ("row", 1)]
)
def test_far_captures(name, dim):
    case = cases.case("learned_bias", cases.Sizes(b=3, g=3, r=1, m=20, n=20) if name != "table" and dim == 0 else suite.LONG)
    values = {**case.values, name: memory.far(case.values[name], dim)}
    check(case, cases.Case(case.cascade, values, case.cotangents))


@pytest.mark.parametrize("axis", ["m", "n"])
def test_positions_so_far_apart_that_a_tile_reaches_over_them(axis):
    """Offsets inside of a tile have 32 bits, and there is no tile whose last position they reach."""
    case = cases.case("causal_alibi", cases.Sizes(b=1, g=1, r=1, m=20, n=130))
    far = suite.stretched(case, axis, 2**25 + 16)
    found = harness.run(case.cascade, far.values, far.cotangents, harness.tiles(64, 128))
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize("width", [2**31 - 1, 2**31 - 30, 2**40, -5, 3])
@pytest.mark.parametrize("mask", ["abs(m - n) <= width", "n - m >= 0 - width and m >= n", "n < width or n <= m", "n >= -width or n > m"])
@pytest.mark.parametrize("captured", [True, False])
def test_limits_of_any_size(mask, width, captured):
    """Numbers of the user's in masks, near and beyond the end of 32 bits, where they are solved for the key."""
    cascade = parse(cases.masked(mask, "width: int") if captured else cases.masked(mask.replace("width", f"({width})")))
    case = cases.case(cascade, cases.Sizes(b=1, g=1, r=1, m=20, n=35), overrides={"width": width} if captured else {})
    arguments = cascade, case.values, case.cotangents
    harness.exact_to(harness.run(*arguments, harness.tiles(16, 16)), harness.expected(*arguments))


def test_far_results():
    """Outputs and gradients of 2.3e9 elements, of which the first and the last batch are computed."""
    batches, sizes = 70_000, cases.Sizes(b=2, g=1, r=1, m=128, n=128, d=256, e=256)
    case = cases.case("softmax", sizes).to(torch.float32)
    values = {name: wide(x, batches) for name, x in case.values.items()}
    cotangents = {name: wide(x, batches) for name, x in case.cotangents.items()}
    kernels = harness.prepare(case.cascade, values, memory.virtual_empty)
    chosen = (0, batches - 1)
    programs.only_programs(kernels.module, chosen)
    tile = harness.tiles(128, 128)
    known = harness.forward(kernels, values, tile)
    gradients = harness.backward(kernels, values, known, cotangents, tile)
    outputs = {name: known[name] for name in kernels.cascade.outputs}
    picked = harness.Results(*({name: x[list(chosen)] for name, x in group.items()} for group in (outputs, gradients)))
    arguments = case.cascade, case.values, case.cotangents
    harness.contract(picked, harness.expected(*arguments), harness.yardstick(*arguments, torch.float32))


def wide(value: torch.Tensor, batches: int) -> torch.Tensor:
    """Two batches, the first and the last of many; those between are not touched."""
    whole = memory.virtual_empty((batches, *value.shape[1:]), value.dtype)
    whole[0], whole[-1] = value[0], value[1]
    return whole

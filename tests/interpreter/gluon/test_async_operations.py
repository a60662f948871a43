from __future__ import annotations

import pytest
import torch

from attngen.errors import InternalError
from attngen.interpreter import interpreter
from attngen.interpreter.gluon import warp_scheduler
from tests.interpreter.gluon import gluon_units


@pytest.fixture(scope="module")
def units():
    return interpreter.interpreted(gluon_units)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("first", [-3, 0, 5])
def test_blocks_are_copied_with_zeros_outside_and_stored_inside(units, dtype, first):
    x = torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.full_like(x, float("nan"))
    units.move_kernel[(1,)](x, y, first, 11, ROWS=8, COLUMNS=16, num_warps=4)
    expected = torch.full_like(x, float("nan"))
    inside = slice(max(first, 0), first + 8)
    expected[1, inside] = x[0, inside]
    assert torch.equal(y.nan_to_num(9.0), expected.nan_to_num(9.0))


def test_a_descriptor_needs_aligned_rows(units):
    x = torch.zeros(2, 8, 12, dtype=torch.float16)
    with pytest.raises(InternalError, match="strides"):
        units.move_kernel[(1,)](x, x, 0, 8, ROWS=8, COLUMNS=12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_products_in_flight_go_on_from_one_another_and_equal_dot(units, monkeypatch, dtype, seed):
    monkeypatch.setattr(warp_scheduler, "timing_seed", seed)
    a, b = gluon_units.pair(dtype)
    out, expected = torch.full((2, 64, 16), float("nan"))
    units.chain_kernel[(1,)](a, b, out, K=32, N=16, WAITS=2, num_warps=4)
    units.dot_kernel[(1,)](a, b, expected, K=32, N=16)
    assert torch.equal(out, expected)
    torch.testing.assert_close(out.double(), a.double() @ b.double(), atol=1e-4, rtol=1e-5)


def test_a_product_that_nobody_waits_for_cannot_be_stored(units):
    a, b = gluon_units.pair(torch.float16)
    with pytest.raises(InternalError, match=r"the product issued at chain_kernel:\d+, which warpgroup_mma_wait has not waited for"):
        units.chain_kernel[(1,)](a, b, torch.zeros(64, 16), K=32, N=16, WAITS=0)

"""The warp-specialised forward in the simulation of its warps: against the float64 reference, and whatever the order of events."""

from __future__ import annotations

import pytest
import torch

from attngen.errors import UnsupportedError
from tests.kernels import cases, harness

LOW = [torch.float16, torch.bfloat16]
SIZES = cases.Sizes(b=1, g=1, r=2, m=150, n=170)
TILES = {"forward": {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2, "TMA": True, "SPECIALISED": True}}


def check(case: cases.Case, dtype: torch.dtype) -> None:
    case = case.to(dtype)
    kernels = harness.prepare(case.cascade, case.values, without=frozenset({"fold_biases"}), specialised=True)
    if "def forward_specialised_kernel(" not in kernels.text:
        pytest.skip("no product of this variant can go ahead")
    found = harness.forward(kernels, case.values, harness.tiles() | TILES)
    plain = harness.forward(kernels, case.values, harness.tiles(128, 32))
    wanted = harness.expected(case.cascade, case.values, case.cotangents).outputs
    for name, value in wanted.items():
        error, usual = ((result[name].double() - value).abs().nan_to_num(torch.inf) for result in (found, plain))
        assert (error <= 2 * usual.max() + 1e-6).all(), f"{name} is {error.max():.1e} off, in the plain form {usual.max():.1e}"


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("variant", cases.ALL)
def test_is_as_right_as_the_plain_form(variant: str, dtype: torch.dtype):
    check(cases.case(variant, SIZES, seed=4), dtype)

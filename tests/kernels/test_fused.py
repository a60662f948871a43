"""The backward in one walk against the float64 oracle, in fenced memory, and where it has no such form."""

from __future__ import annotations

import pytest
import torch

from attngen.ir.parser import parse
from attngen.kernel.fused_backward import fused as fused_kernels
from attngen.pipeline import analyse, for_dtype, fused
from tests.kernels import cases, harness, memory
from tests.kernels.suite import APART, TALL, WIDE
from tests.variants import SOFTMAX

PIECES = cases.Sizes(b=1, g=1, r=2, m=33, n=40, d=48, e=16)
BIASED = SOFTMAX.replace("* 0.25", "* 0.25 + bias[b,g * extent(r) + r,m,n]", 1).replace("e])", "e]; bias: float[:, :, :, :])", 1)


def check(variant: str, sizes: cases.Sizes) -> None:
    case = cases.case(variant, sizes)
    fenced = memory.stored(case, memory.fenced)
    found = harness.run(case.cascade, fenced.values, fenced.cotangents, harness.tiles(32, 32), memory.fenced_empty, one_walk=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("softmax", WIDE),
        ("causal_alibi", WIDE),
        ("window", TALL),
        ("lengths", TALL),
        ("documents", TALL),
        ("scattered_documents", TALL),
        ("skipping", APART),
        ("softcap", TALL),
        ("differential", WIDE),
        ("learned_bias", TALL),
        ("causal_alibi", PIECES),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.m}x{value.n}",
)
def test_gradients(variant: str, sizes: cases.Sizes) -> None:
    """Grouped heads, sums of rows, rows without keys, walks over lists and over pieces, tiles that end behind the last key."""
    check(variant, sizes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_rounding(dtype: torch.dtype) -> None:
    case = cases.case("causal", TALL).to(dtype)
    arguments = case.cascade, case.values, case.cotangents
    found = harness.run(*arguments, harness.tiles(32, 32), memory.fenced_empty, one_walk=True)
    harness.contract(found, harness.expected(*arguments), harness.yardstick(*arguments, dtype))


@pytest.mark.parametrize("variant", ["softmax", "multiples"])
def test_scores_far_below_zero(variant: str) -> None:
    """Behind the last key, where a score is 0, a weight would be infinite, in tiles that are full as far as the mask goes."""
    case = cases.case(variant, TALL)
    case.values["q"] = case.values["q"].abs() + 1.0
    case.values["k"] = -100.0 * (case.values["k"].abs() + 1.0)
    found = harness.run(case.cascade, case.values, case.cotangents, harness.tiles(32, 32), one_walk=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents), 1e-10)


def test_what_one_walk_computes() -> None:
    program = for_dtype(analyse(parse(SOFTMAX)), "bfloat16")
    one = fused(program)
    assert one is not None
    kernels = {kernel.role: kernel for kernel in one.kernels}
    assert list(kernels) == ["forward", "backward_prepare", "backward_fused", "backward_finish"]
    assert kernels["backward_fused"].outputs == ("dk", "dv", "dq_sum")
    assert kernels["backward_fused"].atomic_adds == ("dq_sum",)
    assert kernels["backward_finish"].outputs == ("dq",)
    assert fused(one) is None
    for wanted in ({"q"}, {"k", "v"}):
        assert fused(analyse(parse(SOFTMAX), wanted=frozenset(wanted))) is None, "there is nothing to join"


def test_what_stays_in_two_walks() -> None:
    found = fused_kernels(analyse(parse(BIASED)).parts)
    assert found.kernels == ()
    assert found.refused == ("backward_rows: it scatters gradients of pairs",)

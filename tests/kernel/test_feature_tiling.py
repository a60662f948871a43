"""Feature axes in pieces: what becomes of steps, and what emitted kernels make of the index of a feature."""

from __future__ import annotations

import pytest
import torch

from attngen.facts.kernel_facts import kernel_facts
from attngen.ir.parser import parse
from attngen.kernel.feature_tiles import cuts
from attngen.kernel.feature_tiling import Split, split
from attngen.pipeline import analyse, build
from tests.kernels import cases, harness
from tests.variants import ALL, ENTROPY, SOFTMAX

PIECES = {"d": ("d_0", "d_1"), "e": ("e_0", "e_1", "e_2")}
_OF_FEATURES = """cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]{weight})
  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d] * {factor}
  x[b,g,r,m,n] = s[b,g,r,m,n] * 0.25  if m >= n
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e] * {of_values}
  -> o, lse"""


def pieces_of(text: str) -> dict[str, Split]:
    return {kernel.role: split(kernel, PIECES) for kernel in analyse(parse(text)).kernels}


def test_sums_over_features_and_values_with_features() -> None:
    steps = [str(step) for step in pieces_of(SOFTMAX)["forward"].kernel.steps]
    assert steps[:3] == [
        "s_0[b,g,r,m,n] = sum[d_0] q[b,g,r,m,d_0] * k[b,g,n,d_0]",
        "s_1[b,g,r,m,n] = sum[d_1] q[b,g,r,m,d_1] * k[b,g,n,d_1]",
        "s[b,g,r,m,n] = s_0[b,g,r,m,n] + s_1[b,g,r,m,n]",
    ]
    assert "acc_2[b,g,r,m,e_2] = sum[n] w[b,g,r,m,n] * v[b,g,n,e_2]" in steps
    assert "o_1[b,g,r,m,e_1] = safe_div(acc_1[b,g,r,m,e_1], l_i[b,g,r,m])" in steps


def test_inputs_and_stored_tensors_stay_whole() -> None:
    whole, parts = analyse(parse(SOFTMAX)).kernels[0], pieces_of(SOFTMAX)["forward"]
    assert parts.kernel.inputs == whole.inputs
    assert [read.tensor for read in parts.stored["o"]] == ["o_0", "o_1", "o_2"]
    assert [read.tensor for read in parts.stored["lse"]] == ["lse"]


def test_every_piece_follows_its_gauge() -> None:
    whole, parts = analyse(parse(ENTROPY)).kernels[0], pieces_of(ENTROPY)["forward"]
    followers = {item.name: item for item in parts.kernel.accumulators}
    assert {f"acc_{i}" for i in range(3)} < set(followers)
    assert followers["acc_1"].weight_power == next(item for item in whole.accumulators if item.name == "acc").weight_power
    lower = {item.name: item.lower for item in whole.accumulators if item.lower is not None}
    assert {name: followers[name].lower for name in lower} == lower


@pytest.mark.parametrize("name", ALL)
def test_pieces_need_no_masks_that_the_whole_does_not(name: str) -> None:
    for kernel in analyse(parse(ALL[name])).kernels:
        mine, parts = kernel_facts(kernel).dots_to_zero, kernel_facts(split(kernel, PIECES).kernel).dots_to_zero
        assert {part if part in mine else part.rpartition("_")[0] for part in parts} == set(mine)


def test_a_kernel_without_such_axes_stays_what_it_is() -> None:
    for kernel in analyse(parse(SOFTMAX)).kernels:
        assert split(kernel, {}).kernel == kernel


def test_loads_are_plain() -> None:
    text = build(analyse(parse(SOFTMAX)), "plain", cuts({"d": 96, "e": 96})).text
    assert "offs_d_1 = tl.arange(DIM_D_0, DIM_D_0 + DIM_D_1)" in text
    assert "q_1_ptrs = q_start + range_m[:, None] * q_stride_m + offs_d_1[None, :]" in text
    assert "k_1_rows = tiled(k_base + DIM_D_0, len_n, k_stride_n, DIM_D - DIM_D_0, BLOCK_N, DIM_D_1, TMA)" in text
    assert "k_1 = fetch(k_1_rows, start_n, k_stride_n, ok_n[:, None], BLOCK_N, DIM_D_1, FULL, TMA)" in text
    assert "ok_d" not in text


@pytest.mark.kernels
@pytest.mark.parametrize(("d", "e"), [(96, 16), (72, 40), (24, 112)])
@pytest.mark.parametrize(
    ("factor", "of_values"), [("(1 + 0.01 * d)", "(e - 3)"), ("weight[d]", "weight[e]"), ("cos(0.1 * m * d)", "1.0")], ids=str
)
def test_the_index_of_a_feature_is_that_of_the_whole_axis(factor: str, of_values: str, d: int, e: int) -> None:
    captured = "; weight: float[:]" if "weight" in factor else ""
    cascade = parse(_OF_FEATURES.format(factor=factor, of_values=of_values, weight=captured))
    weight = torch.randn(128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    overrides = {"weight": weight} if captured else {}
    case = cases.case(cascade, cases.Sizes(b=1, g=1, r=2, m=20, n=30, d=d, e=e), overrides=overrides)
    found = harness.run(cascade, case.values, case.cotangents, harness.tiles(16, 16))
    harness.exact_to(found, harness.expected(cascade, case.values, case.cotangents))

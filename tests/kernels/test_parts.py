"""A stream in parts: each key is met by one part, and the merged states give what one pass gives, for every kind of carried sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.ir.parser import parse
from attngen.kernel.partition import Kernel
from attngen.kernel.split_kv import split_forward
from attngen.pipeline import analyse
from tests import variants
from tests.kernels import cases, harness, memory
from tests.kernels.cases import Sizes

SMALL = Sizes(b=1, g=1, r=2, m=5, n=70, d=16, e=24)
POWERS = variants.SOFTMAX.replace(
    "  -> o, lse",
    "  z[b,g,r,m,n] = x[b,g,r,m,n] - lse[b,g,r,m]\n"
    "  t[b,g,r,m] = sum[n] p[b,g,r,m,n] * z[b,g,r,m,n] * z[b,g,r,m,n]\n"
    "  u[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * p[b,g,r,m,n] * v[b,g,n,e]\n"
    "  -> o, lse, t, u",
)
VARIANTS = (
    *("softmax", "entropy_causal", "differential", "sink_prefix", "gate", "sigmoid_causal", "relu_window", "learned_bias", "dropout"),
    *("window", "first_and_last", "skipping", "lengths", "documents", "scattered_documents", "row_ends", "low_rank", "two_masks"),
    *("two_masks_of_sums", "multiples", "nothing", "powers"),
)


def case_of(name: str, sizes: Sizes) -> cases.Case:
    return cases.case(parse(POWERS) if name == "powers" else name, sizes)


def check(case: cases.Case, parts: int, block: int = 16, rows: int = 1, **form: bool) -> None:
    """Outputs in float64, from and into memory that ends at unmapped pages; `rows` are those that the merge has in a tile."""
    tile = harness.tiles(block, 16)
    tile = {**tile, "forward_parts": {**tile["forward_parts"], **form}, "forward_merge": {**tile["forward_merge"], "BLOCK_M": rows}}
    fenced = memory.stored(case, memory.fenced)
    found = harness.divided(case.cascade, fenced.values, tile, parts, memory.fenced_empty)
    golden = harness.expected(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.Results(golden.outputs, {}))


def kernels(text: str) -> tuple[Kernel, Kernel]:
    return split_forward(analyse(parse(text), wanted=frozenset()).kernels[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(name: str) -> None:
    """Windows and documents leave most parts without a key, `nothing` all of them; 3 does not divide the 5 tiles."""
    check(case_of(name, SMALL), 3)


@pytest.mark.parametrize("name", ["window", "multiples", "causal_alibi"])
@pytest.mark.parametrize("form", [{"PIPE": True, "TMA": True}, {"TMA": True}])
def test_forms(name: str, form: dict[str, bool]) -> None:
    """The first tile that goes ahead is that of the part, whichever walk it belongs to."""
    case = cases.case(name, replace(SMALL, r=1, m=60, n=90), overrides={"width": 40} if name == "window" else None)
    for parts in (2, 7):
        check(case, parts, block=64, **form)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(0, 90), st.integers(1, 9), st.sampled_from(["entropy_causal", "first_and_last"]), st.integers(1, 4))
def test_any_lengths_and_parts(m: int, n: int, parts: int, name: str, rows: int) -> None:
    check(cases.case(name, Sizes(b=1, g=1, r=1, m=m, n=n, d=16, e=16)), parts, rows=1 << rows - 1)


@pytest.mark.parametrize("name", ["softmax", "powers"])
def test_more_parts_than_a_turn_of_the_merge_takes(name: str) -> None:
    """Sums follow their gauge from turn to turn."""
    case = case_of(name, replace(SMALL, r=1, m=2, n=600))
    case.values["k"][0, 0] *= torch.linspace(0.1, 3.0, 600, dtype=torch.float64)[:, None]
    check(case, 37)


@pytest.mark.parametrize("n", [1, 16, 17])
def test_a_short_cache(n: int) -> None:
    check(cases.case("causal_bottom_right", replace(SMALL, n=n)), 4)


def test_scores_of_minus_infinity() -> None:
    """Parts whose keys are all excluded by a bias, and a row to which that happens in every part: as in one pass, it is 0."""
    text = variants.SOFTMAX.replace("* 0.25", "* 0.25 + bias[m,n]", 1).replace("e])", "e]; bias: float[:,:])", 1)
    bias = torch.zeros(5, 70, dtype=torch.float64)
    bias[1:3, :48], bias[4] = float("-inf"), float("-inf")
    case = cases.case(parse(text), SMALL, overrides={"bias": bias})
    whole = harness.forward(harness.prepare(case.cascade, case.values), case.values, harness.tiles(16, 16))
    found = harness.divided(case.cascade, case.values, harness.tiles(16, 16), 5)
    harness.exact_to(found, harness.Results({name: whole[name] for name in found.outputs}, {}))
    assert (found.outputs["o"][..., 4, :] == 0.0).all()


@pytest.mark.parametrize("dim", [8, 96, 200])
def test_features_in_pieces(dim: int) -> None:
    check(cases.case("entropy", replace(SMALL, n=40, d=dim, e=dim)), 2)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bfloat16) for name in ("causal_alibi", "softcap", "sink", "entropy")),
        *((name, dtype) for name in ("causal_alibi", "entropy") for dtype in (torch.float16, torch.float32)),
    ],
)
def test_the_contract_of_each_precision(name: str, dtype: torch.dtype) -> None:
    """Rewrites of half precision included: folded biases, and bounded scores that have no maximum to merge."""
    case = cases.case(name, replace(SMALL, m=20)).to(dtype)
    found = harness.divided(case.cascade, case.values, harness.tiles(16, 16), 3)
    golden = harness.expected(case.cascade, case.values, case.cotangents)
    plain = harness.yardstick(case.cascade, case.values, case.cotangents, dtype)
    harness.contract(found, harness.Results(golden.outputs, {}), harness.Results(plain.outputs, {}))


class TestTheDerivation:
    def test_the_merge_is_a_pass_over_the_parts(self) -> None:
        parts, merge = kernels(variants.SOFTMAX)
        assert (parts.grid, merge.grid, merge.streamed) == (("part", "b", "g", "r"), ("b", "g", "r"), "part")
        assert [item.axes for item in merge.inputs] == [("part", "b", "g", "r", "m")] * 2 + [("part", "b", "g", "r", "m", "e")]
        assert [str(step) for step in merge.steps] == [
            "w[b,g,r,m,part] = exp(m_i_parts[part,b,g,r,m] - m_i[b,g,r,m])",
            "l_i[b,g,r,m] = sum[part] w[b,g,r,m,part] * l_i_parts[part,b,g,r,m]",
            "acc[b,g,r,m,e] = sum[part] w[b,g,r,m,part] * acc_parts[part,b,g,r,m,e]",
            "lse[b,g,r,m] = m_i[b,g,r,m] + log(l_i[b,g,r,m])",
            "o[b,g,r,m,e] = safe_div(acc[b,g,r,m,e], l_i[b,g,r,m])",
        ]

    def test_what_has_no_gauge_is_added_up(self) -> None:
        parts, merge = kernels(variants.SIGMOID)
        assert parts.outputs == ("o_parts",)
        assert [str(step) for step in merge.steps] == ["o[b,g,r,m,e] = sum[part] o_parts[part,b,g,r,m,e]"]

    def test_powers_of_weights_and_of_offsets(self) -> None:
        _, merge = kernels(POWERS)
        bodies = [str(step).partition("sum[part] ")[2] for step in merge.steps]
        assert any(body.startswith("w[b,g,r,m,part] * w[b,g,r,m,part] * ") for body in bodies)
        assert any(body.count("where(m_i_parts[part,b,g,r,m] > -inf, y[b,g,r,m,part], 0.0)") == 3 for body in bodies)

    def test_values_of_some_heads_are_stored_for_each(self) -> None:
        """Programs of different heads divide different walks: what they carry alike in the end they do not in the parts."""
        text = cases.masked("n % 2 == 0 and n <= m + 8 * r").replace("p[b,g,r,m,n] * v", "p[b,g,r,m,n] * c[m,n] * v")
        text = text.replace("  o[", "  a[m] = sum[n] c[m,n]\n  o[").replace("  lse", "  c[m,n] = 1.0 / (m + n + 1.0)\n  lse", 1)
        text = text.replace("  -> o", "  z[b,g,r,m,e] = o[b,g,r,m,e] * a[m]\n  -> z")
        parts, _ = kernels(text)
        assert all(axes[:4] == ("part", "b", "g", "r") for axes in (parts.axes(name) for name in parts.outputs))
        check(cases.case(parse(text), SMALL), 3)


def test_kernels_that_list_tiles_are_kept() -> None:
    """A second call with the lists of the first runs no listing kernel."""
    case = cases.case("multiples", SMALL)
    kernels = harness.prepare(case.cascade, case.values, divided=True)
    lists: dict[str, Any] = {}
    arguments = (*(case.values[item.name] for item in kernels.cascade.inputs), harness.tiles(16, 16), 3)
    first = kernels.module.forward(*arguments, lists=lists)
    assert list(lists) == ["forward_parts"]
    vars(kernels.module)["forward_parts_list_kernel"] = None
    for one, other in zip(first, kernels.module.forward(*arguments, lists=lists), strict=True):
        assert torch.equal(one, other)

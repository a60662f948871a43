"""The warp-specialised forward in the simulation of its warps: against the float64 reference, whatever the order of events, and what the
compiler makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attngen
from attngen.errors import ScheduleError
from attngen.interpreter.gluon import warp_scheduler
from tests.kernels import cases, harness

LOW = [torch.float16, torch.bfloat16]
SIZES = cases.Sizes(b=1, g=1, r=2, m=150, n=170)
# An operand that streams is read at a computed position, or its memory may hold anything where a mask of keys alone fails.
COMPUTED = {"low_rank", "every_other_value"}


def tiles(streamed: int = 32, stages: int = 2) -> harness.Tiles:
    own = {"BLOCK_M": 128, "BLOCK_N": streamed, "num_warps": 8, "num_stages": stages, "TMA": True, "SPECIALISED": True}
    return harness.tiles() | {"forward": own}


def prepare(case: cases.Case) -> harness.Emitted:
    return harness.prepare(case.cascade, case.values, without=frozenset({"bias_as_dot"}), alternates=frozenset({"specialised"}))


def run(case: cases.Case, tile: harness.Tiles) -> dict[str, torch.Tensor]:
    """Outputs; an error if another form of the forward was launched than the tile asks for."""
    kernels, launched = prepare(case), list[str]()
    launch = kernels.module.launch

    def noted(kernel: Any, *args: Any) -> None:
        launched.append(kernel.__name__)
        launch(kernel, *args)

    vars(kernels.module)["launch"] = noted
    try:
        found = harness.forward(kernels, case.values, tile)
    finally:
        vars(kernels.module)["launch"] = launch
    assert ("forward_specialised_kernel" in launched) == ("SPECIALISED" in tile["forward"])
    return found


def check(case: cases.Case, dtype: torch.dtype) -> None:
    """Its errors are those of the plain form, which sums in another order."""
    case = case.to(dtype)
    found, plain = run(case, tiles()), run(case, harness.tiles(128, 32))
    for name, value in harness.expected(case.cascade, case.values, case.cotangents).outputs.items():
        same = found[name] == value
        error, usual = ((result[name].double() - value).abs().masked_fill(same, 0.0) for result in (found, plain))
        assert (error <= 2 * usual.max() + 1e-6).all(), f"{name} is {error.max():.1e} off, in the plain form {usual.max():.1e}"


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("variant", sorted(set(cases.ALL) - COMPUTED))
def test_is_as_right_as_the_plain_form(variant: str, dtype: torch.dtype):
    check(cases.case(variant, SIZES, seed=4), dtype)


@pytest.mark.parametrize("dims", [(96, 64), (40, 72), (192, 128)], ids=str)
def test_heads_of_several_tiles(dims: tuple[int, int]):
    check(cases.case("causal", cases.Sizes(b=1, g=1, r=1, m=130, n=100, d=dims[0], e=dims[1]), seed=5), torch.float16)


@pytest.mark.parametrize("lengths", [(1, 1), (128, 128), (129, 31), (300, 33), (5, 200)], ids=str)
@pytest.mark.parametrize("variant", ["softmax", "causal", "causal_bottom_right", "documents"])
def test_lengths(variant: str, lengths: tuple[int, int]):
    check(cases.case(variant, cases.Sizes(b=1, g=1, r=1, m=lengths[0], n=lengths[1]), seed=6), torch.bfloat16)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_no_order_of_events_changes_a_bit(stages: int, monkeypatch: pytest.MonkeyPatch):
    case = cases.case("first_and_last", SIZES, seed=7).to(torch.float16)
    found: list[torch.Tensor] = []
    for seed in range(4):
        monkeypatch.setattr(warp_scheduler, "timing_seed", seed)
        found.append(run(case, tiles(16, stages))["o"])
    assert all(torch.equal(found[0], other) for other in found[1:])


# ---- as a user asks for it


def ask(**more: int) -> dict[str, dict[str, Any]]:
    return {"forward": {"SPECIALISED": True, "BLOCK_N": 32, **more}}


def tensors(dtype: torch.dtype = torch.bfloat16, length: int = 150, dim: int = 32) -> list[torch.Tensor]:
    torch.manual_seed(8)
    return [torch.randn(1, 2, length, dim, dtype=dtype, requires_grad=True) for _ in range(3)]


def test_trains_and_explains():
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k), arch="sm90", schedule=ask())
    plain = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k), arch="sm90")
    results: list[list[torch.Tensor]] = []
    for compiled in (attend, plain):
        inputs = tensors()
        compiled(*inputs).sum().backward()
        results.append([item.grad for item in inputs if item.grad is not None])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-2, rtol=2e-2)


def test_calls_of_few_queries_and_explanations_know_nothing_of_it():
    """What such calls run instead has too few rows for warps to divide."""
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q <= k), arch="sm90", schedule=ask())
    q, k = torch.randn(1, 4, 3, 32, dtype=torch.float16), torch.randn(1, 2, 90, 32, dtype=torch.float16)
    torch.testing.assert_close(attend(q, k, k).double(), attend.reference(q, k, k), atol=5e-3, rtol=5e-3)
    assert "specialised" in attend.explain()
    flat = attngen.compile(attngen.attention(), arch="sm90", schedule={"SPECIALISED": True})
    assert "specialised" in flat.explain()
    torch.testing.assert_close(flat(q, k, k).double(), flat.reference(q, k, k), atol=5e-3, rtol=5e-3)


def test_strides_that_no_descriptor_takes_run_in_the_plain_form():
    attend = attngen.compile(attngen.attention(), arch="sm90", schedule=ask())
    wide = [torch.randn(1, 2, 70, 33, dtype=torch.float16)[..., :32] for _ in range(3)]
    torch.testing.assert_close(attend(*wide).double(), attend.reference(*wide), atol=5e-3, rtol=5e-3)


def test_what_it_cannot_do_is_refused():
    slopes = torch.ones(2)
    spec = attngen.attention(score_mod=lambda score, b, h, q, k: score + slopes[h] * (k - q))
    with pytest.raises(ScheduleError, match="no warp-specialised form: a bias is folded into its scores"):
        attngen.compile(spec, arch="sm90", schedule=ask())(*tensors(dim=64))
    bias = attngen.low_rank(torch.randn(150, 5), torch.randn(150, 5))
    spec = attngen.attention(score_mod=lambda score, b, h, q, k: score + bias(b, h, q, k))
    with pytest.raises(ScheduleError, match="is not read as rows lie in memory"):
        attngen.compile(spec, arch="sm90", schedule=ask())(*tensors(dim=64))
    with pytest.raises(ScheduleError, match="up to 256 columns, and one of 512"):
        attngen.compile(attngen.attention(), arch="sm90", schedule=ask())(*tensors(dim=576))
    with pytest.raises(ScheduleError, match="float16 and bfloat16 on sm90, not for float32"):
        attngen.compile(attngen.attention(), arch="sm90", schedule=ask())(*tensors(torch.float32))
    with pytest.raises(ScheduleError, match="not for bfloat16 on sm80"):
        attngen.compile(attngen.attention(), arch="sm80", schedule=ask())(*tensors())
    with pytest.raises(ScheduleError, match="specialised=True excludes resident=64"):
        attngen.compile(attngen.attention(), arch="sm90", schedule=ask(BLOCK_M=64))(*tensors())


def test_few_queries_and_explain_have_their_own_forms():
    """A forward whose keys are in parts has no divided warps."""
    for schedule in (ask(), {"SPECIALISED": True}, {"forward": {"SPECIALISED": False}}):
        attend = attngen.compile(attngen.attention(), arch="sm90", schedule=schedule)
        assert "forward_parts" in attend.explain(head_dim=32)
        q, k, v = (torch.randn(1, 2, length, 32, dtype=torch.float16) for length in (1, 600, 600))
        torch.testing.assert_close(attend(q, k, v).double(), attend.reference(q, k, v), atol=5e-3, rtol=5e-3)


def test_it_says_why_not_where_all_kernels_are_asked():
    slopes = torch.ones(2)
    spec = attngen.attention(score_mod=lambda score, b, h, q, k: score + slopes[h] * (k - q))
    with pytest.raises(ScheduleError, match="no warp-specialised form: a bias is folded"):
        attngen.compile(spec, arch="sm90", schedule={"SPECIALISED": True})(*tensors(dim=64))


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def moments(q, k, v):
    p = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k), over="n")
    return attngen.einsum("b h m n, b h n e -> b h m e", p, v), attngen.einsum("b h m n, b h n e -> b h m e", p, v * v)


def test_a_product_of_streamed_matrices_is_refused():
    with pytest.raises(ScheduleError, match=r"v.* in .* is not read as rows lie in memory"):
        attngen.compile(moments, arch="sm90", schedule=ask())(*tensors())


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def normed(q, k, v):
    own = attngen.sum(q * q, over="d")
    s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.rsqrt(own + 1.0)
    o = attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)
    return o * attngen.rsqrt(attngen.sum(o * o, over="e"))


def test_sums_over_features_of_rows():
    """They come from tiles that live elsewhere, one of them padded."""
    attend = attngen.compile(normed, arch="sm90", schedule=ask())
    found = tensors(torch.float16)
    with torch.no_grad():
        torch.testing.assert_close(attend(*found).double(), attend.reference(*found), atol=5e-3, rtol=5e-3)
    assert attend.kernels[0].resources(head_dim=(64, 20)).spill_bytes == 0


@pytest.mark.parametrize("head_dim", [64, (96, 64)], ids=str)
def test_compiles_without_spills(head_dim: int | tuple[int, int]):
    """Two blocks of columns that differ from the rows' and from each other: no layout fits where another should be."""
    attend = attngen.compile(attngen.attention(softcap=30.0, mask_mod=lambda b, h, q, k: q >= k), arch="sm90", schedule=ask())
    compiled = next(kernel for kernel in attend.kernels if kernel.role == "forward").resources(head_dim=head_dim)
    assert compiled.name == attend.kernels[0].name == "forward_specialised_kernel"
    shown = attend.kernels[0].source
    assert shown.startswith("@gluon.jit\ndef forward_scores(")
    assert [f"def forward_{part}(" in shown for part in ("loader", "worker", "specialised_kernel", "kernel")] == [True, True, True, False]
    assert compiled.num_warps == 12
    assert compiled.spill_bytes == 0
    assert not compiled.serialized_wgmma

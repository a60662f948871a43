"""Laws of attention that every emitted kernel obeys, most of them bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attngen.ir.parser import parse
from tests import variants
from tests.kernels import cases, harness

SIZES = cases.Sizes(b=2, g=2, r=1, m=40, n=70)
SHIFTED = variants.SOFTMAX.replace("* 0.25", "* 0.25 + shift").replace("v[b,g,n,e])", "v[b,g,n,e]; shift: float[])")
HEADS_OF = {"b": 0, "g": 1}


def run(case: cases.Case, tile: harness.Tiles | None = None) -> harness.Results:
    return harness.run(case.cascade, case.values, case.cotangents, tile)


def same(one: harness.Results, other: harness.Results, *names: str) -> None:
    """Bit for bit, results of the given names or all of them."""
    right = dict(other.items())
    for name, value in one.items():
        assert name not in (names or right) or torch.equal(value, right[name]), name


@pytest.mark.parametrize("variant", cases.ALL)
def test_twice_the_same(variant):
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=40, n=70)).to(torch.float32)
    same(run(case), run(case))


@pytest.mark.parametrize("variant", ["softmax", "entropy", "relu", "gate", "differential", "sink", "dilated"])
def test_batches_do_not_meet(variant):
    """Each batch alone gives what it gives among others."""
    case = cases.case(variant, cases.Sizes(b=3, g=1, r=2, m=40, n=70)).to(torch.float32)
    together = dict(run(case).items())
    tensors = {item.name for item in case.cascade.inputs if item.axes is not None and item.axes[0] == "b"}
    for batch in range(3):
        values = {name: x[batch : batch + 1] if name in tensors else x for name, x in case.values.items()}
        cotangents = {name: x[batch : batch + 1] for name, x in case.cotangents.items()}
        for name, value in run(cases.Case(case.cascade, values, cotangents)).items():
            if name in case.cotangents or name.removeprefix("gradient of ") in tensors:
                assert torch.equal(value, together[name][batch : batch + 1]), name


@pytest.mark.parametrize("variant", ["softmax", "entropy", "relu", "gate", "window", "dilated"])
@pytest.mark.parametrize("axis", HEADS_OF)
def test_permuted_batches_and_heads(variant, axis):
    case = cases.case(variant, SIZES).to(torch.float32)

    def permuted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.flip(HEADS_OF[axis]) if isinstance(x, Tensor) and x.dim() > 1 else x for name, x in tensors.items()}

    plain, other = run(case), run(cases.Case(case.cascade, permuted(case.values), permuted(case.cotangents)))
    same(harness.Results(permuted(plain.outputs), permuted(plain.gradients)), other)


@settings(max_examples=10)
@given(extra=st.integers(1, 80), seed=st.integers(0, 99))
def test_appended_masked_keys(extra, seed):
    """Keys that no query may see change no bit, whatever they hold, and get no gradient."""
    few = cases.case("lengths", cases.Sizes(b=2, g=1, r=2, m=40, n=70), seed=seed).to(torch.float32)
    few.values["lengths"] = torch.tensor([50, 70])

    def appended(x: Tensor) -> Tensor:
        return torch.cat([x, torch.full((*x.shape[:-2], extra, x.shape[-1]), 1e4)], -2)

    many = cases.Case(few.cascade, {**few.values, "k": appended(few.values["k"]), "v": appended(few.values["v"])}, few.cotangents)
    one, other = run(few), run(many)
    same(harness.Results(one.outputs, {"q": one.gradients["q"]}), harness.Results(other.outputs, {"q": other.gradients["q"]}))
    for name in "kv":
        assert torch.equal(one.gradients[name], other.gradients[name][:, :, :70]), name
        assert not other.gradients[name][:, :, 70:].any(), name


@settings(max_examples=10)
@given(shift=st.floats(-1000, 1000))
def test_shifted_scores(shift):
    """Softmax does not see a constant; the logsumexp moves with it, and its gradient is the sum of the cotangents of lse."""
    cascade = parse(SHIFTED)
    plain = cases.case("softmax", SIZES)
    moved = cases.Case(cascade, {**plain.values, "shift": torch.tensor(shift, dtype=torch.float64)}, plain.cotangents)
    one, other = run(plain), run(moved)
    torch.testing.assert_close(other.outputs["o"], one.outputs["o"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(other.outputs["lse"], one.outputs["lse"] + shift, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(other.gradients["shift"], plain.cotangents["lse"].sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["softmax", *(name for name in cases.MASKS if name != "nothing"), "causal_alibi", "softcap", "relu"])
def test_equal_values_come_through(variant):
    """Weights that sum to 1 give back a value that all keys share; rows without weights give 0."""
    case = cases.case(variant, SIZES)
    case.values["v"] = torch.ones_like(case.values["v"])
    o = run(case).outputs["o"]
    assert ((o - 1).abs().lt(1e-13) | o.eq(0)).all()
    assert o.gt(0).any()


@pytest.mark.parametrize("variant", cases.ALL)
def test_no_cotangent_no_gradient(variant):
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=40, n=70))
    nothing = {name: torch.zeros_like(x) for name, x in case.cotangents.items()}
    for name, value in run(cases.Case(case.cascade, case.values, nothing)).gradients.items():
        assert not value.any(), name


@pytest.mark.parametrize("variant", ["learned_bias", "differential", "sink", "gate"])
def test_only_what_is_needed(variant):
    """Each gradient alone is the same as among all, and no other one is made."""
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=40, n=70))
    kernels = harness.prepare(case.cascade, case.values)
    known = harness.forward(kernels, case.values, harness.tiles())
    together = harness.backward(kernels, case.values, known, case.cotangents, harness.tiles())
    for name in kernels.targets:
        alone = harness.backward(kernels, case.values, known, case.cotangents, harness.tiles(), (name,))
        assert list(alone) == [name]
        assert torch.equal(alone[name], together[name])


BLOCKS = st.sampled_from([16, 32, 64])
LENGTHS = st.integers(0, 90)


@given(
    variant=st.sampled_from(sorted(cases.ALL)),
    sizes=st.builds(cases.Sizes, *(st.integers(1, 2),) * 2, st.integers(1, 3), LENGTHS, LENGTHS, st.integers(1, 40), st.integers(1, 40)),
    block=st.tuples(BLOCKS, BLOCKS),
    seed=st.integers(0, 999),
)
def test_any_variant_at_any_size(variant, sizes, block, seed):
    case = cases.case(variant, sizes, seed=seed)
    harness.exact_to(run(case, harness.tiles(*block)), harness.expected(case.cascade, case.values, case.cotangents))

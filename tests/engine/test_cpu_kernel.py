"""The CPU engine against the oracle: every variant in several tiles a side, with memory full of NaN wherever nothing was written."""

from __future__ import annotations

import pytest
import torch

import attngen
from attngen.engine import library
from attngen.errors import AttngenError
from tests.kernels import cases, harness

SIZES = cases.Sizes(b=2, g=2, r=2, m=70, n=90)
FUSED = ["softmax", "causal_alibi", "entropy", "documents", "learned_bias", "differential"]
SPLIT = ["softmax", "causal_alibi", "sink", "documents", "entropy", "relu"]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head at a time, in tiles of 16 by 32, and calls run in the engine whatever the options of the run say."""
    monkeypatch.setattr(library, "PAIRS", 2**8)
    monkeypatch.delenv("ATTNGEN_INTERPRET", raising=False)


@pytest.mark.parametrize("variant", cases.ALL)
def test_every_variant_is_exact(variant: str) -> None:
    case = cases.case(variant, SIZES)
    found = harness.run(case.cascade, case.values, case.cotangents, engine=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize(("rows", "keys"), [(1, 100), (100, 1), (0, 63), (63, 0), (0, 0)])
@pytest.mark.parametrize("variant", ["softmax", "causal_alibi", "sink", "relu", "documents", "learned_bias"])
def test_lengths(variant: str, rows: int, keys: int) -> None:
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=1, m=rows, n=keys))
    found = harness.run(case.cascade, case.values, case.cotangents, engine=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize("variant", FUSED)
def test_the_fused_backward(variant: str) -> None:
    case = cases.case(variant, SIZES)
    found = harness.run(case.cascade, case.values, case.cotangents, one_walk=True, engine=True)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


@pytest.mark.parametrize("parts", [1, 3, 70])
@pytest.mark.parametrize("variant", SPLIT)
def test_split_keys(variant: str, parts: int) -> None:
    case = cases.case(variant, SIZES)
    found = harness.divided(case.cascade, case.values, harness.tiles(), parts, engine=True)
    golden = harness.expected(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.Results({name: golden.outputs[name] for name in found.outputs}, {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ["softmax", "causal_alibi", "sink", "gate", "learned_bias", "sigmoid_causal"])
def test_lower_precision_keeps_the_contract(variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are rounded where kernels round them, and sums are kept in fp32."""
    monkeypatch.setattr(library, "PAIRS", 2**14)
    case = cases.case(variant, SIZES)
    given = case.to(dtype)
    found = harness.run(case.cascade, given.values, given.cotangents, engine=True)
    golden = harness.expected(case.cascade, given.values, given.cotangents)
    harness.contract(found, golden, harness.yardstick(case.cascade, given.values, given.cotangents, dtype))


@pytest.mark.parametrize("variant", ["softmax", "causal_alibi", "sink", "gate", "learned_bias", "sigmoid_causal"])
def test_single_precision(variant: str) -> None:
    case = cases.case(variant, SIZES)
    given = case.to(torch.float32)
    found = harness.run(case.cascade, given.values, given.cotangents, engine=True)
    harness.exact_to(found, harness.expected(case.cascade, given.values, given.cotangents), 1e-5)


def test_strides_change_nothing() -> None:
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k))
    q, k, v = (torch.randn(2, 50, 4, 16, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3))
    found, right = attend(q, k, v), attend.reference(q, k, v)
    torch.testing.assert_close(found, right)
    mine, theirs = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, right))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masks", ["lengths", "holes"])
def test_keys_that_nobody_sees_are_not_read(masks: str) -> None:
    """NaN behind the end of each sequence, or between keys that are seen, reaches neither results nor gradients."""
    lengths, kept = torch.tensor([20, 33]), torch.arange(40) % 3 != 0
    seen = {"lengths": lambda b, h, q, k: k < lengths[b], "holes": lambda b, h, q, k: kept[k] & (k <= q + 30)}
    attend = attngen.compile(attngen.attention(mask_mod=seen[masks]))
    q, k, v = (torch.randn(2, 2, 40, 16, dtype=torch.float64) for _ in range(3))
    unseen = torch.arange(40)[None, :] >= lengths[:, None] if masks == "lengths" else ~kept[None, :].expand(2, 40)
    for tensor in (k, v):
        tensor.masked_fill_(unseen[:, None, :, None], float("nan"))
    q, k, v = (tensor.requires_grad_() for tensor in (q, k, v))
    found = attend(q, k, v)
    assert found.isfinite().all()
    for gradient in torch.autograd.grad(found.sum(), (q, k, v)):
        assert gradient.isfinite().all()


def test_memory_does_not_grow_with_the_square() -> None:
    """A window of 256 over 16,384 keys: the tiles that are computed lie along the diagonal, in the same few buffers."""
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: (q >= k) & (q - k < 256)))
    q, k, v = (torch.randn(1, 1, 16384, 16) for _ in range(3))
    attend(q, k, v)
    assert sum(buffer.numel() for buffer in library.scratch_of(torch.float32).buffers.values()) < 2**22


def test_a_tensor_elsewhere_is_refused() -> None:
    attend = attngen.compile(attngen.attention())
    q = torch.randn(1, 2, 10, 16)
    with pytest.raises(AttngenError):
        attend(q, q.to("meta"), q)

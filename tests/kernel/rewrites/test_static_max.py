"""Exponents within bounds: which are seen to be, and that kernels without a running maximum give what those with one do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import attngen
from attngen.kernel.rewrites.note import Note
from attngen.pipeline import analyse, for_dtype
from tests.kernel.rewrites.test_bias_separation import M, N, case, draw
from tests.kernels import cases, harness
from tests.kernels.test_precision import cancelling


def note(spec: attngen.Spec, dtype: str = "bfloat16") -> Note:
    (found,) = [note for note in dict(for_dtype(analyse(spec.cascade), dtype).rewrites)["static_max"] if note.role == "forward"]
    return found


def capped(cap: float, **options: Any) -> attngen.Spec:
    return attngen.attention(softcap=cap, name="capped", **options)


def test_a_softcap_bounds_scores() -> None:
    text = "within -30 and 30; no maximum of each tile, and no rescaling of sums"
    assert (note(capped(30.0)).applied, note(capped(30.0)).text) == (True, text)
    source = attngen.compile(capped(30.0)).kernels[0].source
    assert not re.search(r"\b(m_i|alpha)\b", source)


def test_a_bias_within_bounds_counts() -> None:
    spec = capped(30.0, score_mod=lambda s, b, h, q, k: s + 5.0 * torch.cos(0.1 * (q - k)) - 40.0)
    assert note(spec).text.startswith("within -75 and -5")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (capped(70.0), "it has no bounds, or wider ones than 120"),
        (capped(30.0, score_mod=lambda s, b, h, q, k: s + k), "it has no bounds, or wider ones than 120"),
        (capped(30.0, sink=1.0), "the maximum also covers a value of the row"),
        (attngen.attention(softcap=torch.tensor(30.0), name="capped"), "it has no bounds, or wider ones than 120"),
        (attngen.attention(name="capped"), "it has no bounds, or wider ones than 120"),
    ],
)
def test_others_keep_their_maximum(spec: attngen.Spec, reason: str) -> None:
    assert (note(spec).applied, note(spec).text) == (False, reason)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_other_dtypes_keep_their_maximum(dtype: str) -> None:
    assert "static_max" not in dict(for_dtype(analyse(capped(30.0).cascade), dtype).rewrites)


@pytest.mark.kernels
@pytest.mark.parametrize("mask", ["causal", "none", "nothing for some"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_at_their_bounds(mask: str, dtype: torch.dtype) -> None:
    """Nearly all scores are at one end or the other, some rows at the lower end throughout, so that rows attend to one key or to all."""
    masks: dict[str, Any] = {"causal": lambda b, h, q, k: q >= k, "none": None, "nothing for some": lambda b, h, q, k: q > k + 3}
    spec = capped(60.0, mask_mod=masks[mask])
    values, cotangents = case(spec, dtype, scale=30.0)
    values["k"][..., 0], values["q"][..., : M // 2, 0] = 100.0, -100.0
    found, golden = harness.run(spec, values, cotangents, rewrites="bfloat16"), harness.expected(spec, values, cotangents)
    if dtype == torch.float64:
        harness.exact_to(found, golden)
    else:
        terms = cancelling(cases.Case(spec.cascade, values, cotangents))
        harness.contract(found, golden, harness.yardstick(spec, values, cotangents, dtype), terms)


@pytest.mark.kernels
def test_entropy_keeps_its_maximum() -> None:
    """It adds up exponents measured from the maximum."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def entropy(q: Any, k: Any, v: Any) -> Any:
        x = 20.0 * torch.tanh(attngen.einsum("b h m d, b h n d -> b h m n", q, k) * 0.25)
        p = attngen.softmax(x, over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v), attngen.sum(p * x, over="n")

    assert not note(entropy).applied or "within" in note(entropy).text
    values = {name: draw(1, 1, n, 16, seed=i) for i, (name, n) in enumerate((("q", M), ("k", N), ("v", N)))}
    cotangents = {name: draw(1, 1, M, *([16] if i == 0 else []), seed=i) for i, name in enumerate(entropy.cascade.outputs)}
    harness.exact_to(harness.run(entropy, values, cotangents, rewrites="bfloat16"), harness.expected(entropy, values, cotangents))

"""Scales in the exponential: where they go there, where not and why, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attngen
from attngen.errors import ArgumentError
from attngen.pipeline import analyse

SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}
MASKS: dict[str, Any] = {
    "none": None,
    "causal": lambda b, h, q, k: q >= k,
    "few": lambda b, h, q, k: (q + k) % 5 == 0,
    "nothing for some": lambda b, h, q, k: q > k + 3,
}


def notes(spec: attngen.Spec) -> dict[str, tuple[bool, str]]:
    """What became of each exponent in the forward."""
    found = dict(analyse(spec.cascade).rewrites)["scale_folding"]
    return {note.step: (note.applied, note.text) for note in found if note.role == "forward"}


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"sink": 0.5}, {"mask_mod": MASKS["causal"]}])
def test_positive_scales_are_folded(options: dict[str, Any]) -> None:
    assert notes(attngen.attention(**options)) == {"x": (True, "a product less for each pair")}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scale": -0.3}, "-0.3 is not known to be a positive constant"),
        ({"scale": 0.0}, "x is no product of a tile and a scale"),
        ({"scale": torch.tensor(0.5)}, "scale is not known to be a positive constant"),
        ({"softcap": 20.0}, "x is no product of a tile and a scale"),
        ({"score_mod": lambda s, b, h, q, k: s + (q - k)}, "x is no product of a tile and a scale"),
        ({"scale": 1.0}, "x is no product of a tile and a scale"),
    ],
)
def test_others_stay(options: dict[str, Any], reason: str) -> None:
    found = notes(attngen.attention(**options))
    assert found == {"x": (False, reason)}


def test_an_exponent_that_is_read_otherwise_stays() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def entropy(q: Any, k: Any, v: Any) -> Any:
        x = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * 0.25
        p = attngen.softmax(x, over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v), attngen.sum(p * x, over="n")

    assert [(applied, "needs" in text) for applied, text in notes(entropy).values()] == [(False, True)]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("both", [True, False])
def test_whole_numbers_in_an_exponent_keep_their_scale(both: bool, dtype: torch.dtype) -> None:
    """A tile of distances, or a vector of positions, times a number."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def decayed(q: Any, k: Any, v: Any) -> Any:
        place = attngen.index("n") - attngen.index("m") if both else attngen.index("n")
        norm = attngen.sum(q * q, over="d")
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.exp(place * 0.25 - norm * 0.1), v)

    attend = attngen.compile(decayed, schedule=SMALL)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((1, 1, n, 16), generator=generator, dtype=torch.float64).mul(0.3).to(dtype) for n in (20, 23, 23))
    right = attend.reference(q, k, v)
    assert (attend(q, k, v).double() - right).abs().max() <= 4 * torch.finfo(dtype).eps * right.abs().max()


@pytest.mark.kernels
@settings(max_examples=10)
@given(
    scale=st.sampled_from([None, 0.5, 2.0, -0.7, 1e-3]),
    mask=st.sampled_from(list(MASKS)),
    softcap=st.sampled_from([None, 5.0]),
    sink=st.sampled_from([None, 0.3]),
    dim=st.sampled_from([16, 24]),
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_results_are_the_same_without(scale: Any, mask: str, softcap: Any, sink: Any, dim: int, lengths: tuple[int, int]) -> None:
    spec = attngen.attention(mask_mod=MASKS[mask], scale=scale, softcap=softcap, sink=sink, name="scaled")
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 2, lengths[0], dim), (1, 1, lengths[1], dim), (1, 1, lengths[1], 16), (1, 2, lengths[0], 16)]
    *leaves, cotangent = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    found: list[tuple[torch.Tensor, ...]] = []
    with_rewrites, without = attngen.compile(spec, schedule=SMALL), attngen.compile(spec, schedule=SMALL, without=["scale_folding"])
    for run in (with_rewrites, without, with_rewrites.reference):
        o, lse = run(*leaves, return_lse=True)
        found.append((o, lse, *torch.autograd.grad((o * cotangent).sum() + torch.where(lse.isfinite(), lse, 0.0).sum(), leaves)))
    for mine, plain, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plain, right, rtol=1e-12, atol=1e-12)


def test_the_switch_is_checked_and_explain_tells() -> None:
    spec = attngen.attention(mask_mod=MASKS["causal"], name="causal")
    told = attngen.compile(spec, deterministic=True).explain()
    assert "scale_folding: x in forward, backward_rows, backward_columns: a product less for each pair" in told
    assert "scale_folding" not in attngen.compile(spec, without=["scale_folding"]).explain()
    with pytest.raises(ArgumentError, match="there is no rewrite 'fold'"):
        attngen.compile(spec, without=["fold"])

"""Arguments without features may be float32 beside operands of 16 bits: they enter in that precision, and so do their gradients leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.errors import DtypeMismatch

SCORES, VALUES = "b h m d, b h n d -> b h m n", "b h m n, b h n e -> b h m e"
AXES = {"row": "bhm", "q": "bhmd", "k": "bhnd", "v": "bhne", "key": "bhn", "pair": "bhmn", "head": "h"}
SIZES = {"b": 2, "h": 2, "m": 20, "n": 27, "d": 16, "e": 16}


@attngen.cascade(**{name: " ".join(axes) for name, axes in AXES.items()})
def gated(row: Any, q: Any, k: Any, v: Any, key: Any, pair: Any, head: Any) -> Any:
    p = attngen.softmax(attngen.einsum(SCORES, q, k) * 0.25 + pair * head, over="n")
    return row * attngen.einsum(VALUES, p * key, v), attngen.sum(p * key, over="n")


def dense(row: Tensor, q: Tensor, k: Tensor, v: Tensor, key: Tensor, pair: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    p = (q @ k.mT * 0.25 + pair * head[:, None, None]).softmax(-1) * key[:, :, None]
    return row[..., None] * (p @ v), p.sum(-1)


def drawn(dtypes: dict[str, torch.dtype], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: [SIZES[axis] for axis in axes] for name, axes in AXES.items()}
    return {name: torch.randn(shape, generator=generator).to(dtypes[name]).requires_grad_() for name, shape in shapes.items()}


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float64]), st.sets(st.sampled_from(["row", "key", "pair", "head"]), min_size=1)
)
def test_values_and_gradients(dtype: torch.dtype, wide: set[str]) -> None:
    leaves = drawn({name: torch.float32 if name in wide else dtype for name in AXES})
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in leaves.items()}
    found, right = attngen.compile(gated)(**leaves), dense(**exact)
    bound = 1e-6 if dtype == torch.float64 else 2e-2
    for mine, expected in zip(found, right, strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=bound, atol=bound)
    mine = torch.autograd.grad(sum(x.double().square().sum() for x in found), list(leaves.values()))
    expected = torch.autograd.grad(sum(x.square().sum() for x in right), list(exact.values()))
    for name, a, b in zip(leaves, mine, expected, strict=True):
        assert a.dtype == leaves[name].dtype
        assert (a.double() - b).abs().max() <= 2 * bound * b.abs().max(), name


def test_a_statistic_comes_back_as_it_left() -> None:
    """Rounded to bfloat16 the logsumexp of a row is off by percents of each weight."""

    @attngen.cascade(q="b h m d", k="b h n d", lse="b h m")
    def columns(q: Any, k: Any, lse: Any) -> Any:
        return attngen.sum(attngen.exp(attngen.einsum(SCORES, q, k) * 0.25 - lse), over="m")

    leaves = drawn(dict.fromkeys(AXES, torch.bfloat16))
    q, k = (leaves[name].detach() * 3 for name in "qk")
    _, lse = attngen.compile(attngen.attention(scale=0.25))(q, k, k, return_lse=True)
    right = (q.double() @ k.double().mT * 0.25).softmax(-1).sum(2)
    torch.testing.assert_close(attngen.compile(columns)(q, k, lse).double(), right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"row": torch.float64}, r"row is torch.float64, q is torch.float16(.|\n)*Convert row to float32 or to float16"),
        ({"key": torch.bfloat16}, r"key is torch.bfloat16, q is torch.float16"),
        ({"k": torch.float32}, r"all arguments with features must have one dtype: q is torch.float16, k is torch.float32"),
    ],
)
def test_other_mixtures_are_refused(changed: dict[str, torch.dtype], match: str) -> None:
    with pytest.raises(DtypeMismatch, match=match):
        attngen.compile(gated)(**drawn(dict.fromkeys(AXES, torch.float16) | changed))


def test_autocast_leaves_numbers_alone() -> None:
    leaves = drawn(dict.fromkeys(AXES, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        found, total = attngen.compile(gated)(**leaves)
    assert found.dtype == torch.bfloat16
    rounded = {name: tensor.bfloat16() if name in ("q", "k", "v") else tensor for name, tensor in leaves.items()}
    _, right = dense(**{name: tensor.double() for name, tensor in rounded.items()})
    torch.testing.assert_close(total.double(), right, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.float().sum(), leaves["row"])
    assert gradient.dtype == torch.float32


def test_it_is_told() -> None:
    assert "row, key, pair, head: that of q, or float32" in attngen.compile(gated).explain()

"""Maxima as values: over the keys as outputs, over features inside of a variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.errors import NotDifferentiable, UnsupportedError

SCORES, VALUES = "b h m d, b h n d -> b h m n", "b h m n, b h n e -> b h m e"


def tensors(queries: int = 20, keys: int = 27, depth: int = 16, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries)
    sizes = (queries, keys, keys)
    return [torch.randn(2, 2, size, depth, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def clipped(q: Any, k: Any, v: Any) -> Any:
    s = attngen.where(attngen.index("m") > attngen.index("n") + 3, attngen.einsum(SCORES, q, k) * 0.25, float("-inf"))
    return attngen.einsum(VALUES, attngen.softmax(s, over="n"), v), attngen.max(s, over="n")


@pytest.mark.parametrize(("queries", "dtype"), [(20, "float64"), (5, "float64"), (40, "bfloat16"), (40, "float16")])
def test_beside_an_output(queries: int, dtype: str) -> None:
    """The largest score of each row, minus infinity where it sees none; few queries take the parts of a divided stream."""
    keys = 600 if queries < 16 else 150
    q, k, v = tensors(queries, keys, dtype=getattr(torch, dtype))
    with torch.no_grad():
        _, top = attngen.compile(clipped)(q, k, v)
        seen = torch.arange(queries)[:, None] > torch.arange(keys) + 3
        right = (q.double() @ k.double().mT * 0.25).masked_fill(~seen, float("-inf")).amax(-1)
    torch.testing.assert_close(top.double(), right, rtol=1e-6, atol=1e-6)
    assert bool((top[..., :4] == float("-inf")).all())


def test_gradients_of_the_others() -> None:
    given = tensors()
    found, _ = attngen.compile(clipped)(*given)
    right, _ = attngen.compile(clipped).reference(*given)
    for mine, expected in zip(*(torch.autograd.grad(x.square().sum(), given) for x in (found, right)), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


def test_a_gradient_through_it_is_refused_by_name() -> None:
    given = tensors()
    _, top = attngen.compile(clipped)(*given)
    with pytest.raises(NotDifferentiable, match=r'o2 depends on a maximum(.|\n)*attngen.max\(s, over="n"\)(.|\n)*o2.detach\(\)'):
        torch.autograd.grad(top[..., 10:].sum(), given)


def test_a_maximum_that_is_a_shift_too() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def by_hand(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum(SCORES, q, k) * 0.25
        top = attngen.max(s, over="n")
        p = attngen.exp(s - top)
        total = attngen.sum(p, over="n")
        return {"o": attngen.einsum(VALUES, p, v) / total, "top": top, "lse": top + attngen.log(total)}

    q, k, v = tensors()
    found, s = attngen.compile(by_hand)(q, k, v), q @ k.mT * 0.25
    for name, right in {"o": s.softmax(-1) @ v, "top": s.amax(-1), "lse": s.logsumexp(-1)}.items():
        torch.testing.assert_close(found[name], right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduce", ["max", "logsumexp"])
@pytest.mark.parametrize(("of", "depth"), [("k", 16), ("k", 24), ("q", 80)])
def test_over_features(of: str, depth: int, reduce: str) -> None:
    """Padded features count for nothing, not for zeros; ties share the gradient of a maximum, as in PyTorch."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def scaled(q: Any, k: Any, v: Any) -> Any:
        factor = getattr(attngen, reduce)((q if of == "q" else k) - 4.0, over="d")
        return attngen.einsum(VALUES, attngen.softmax(attngen.einsum(SCORES, q, k) * 0.25 * factor, over="n"), v)

    given = [(x.detach() * 2).round().div(2).requires_grad_() for x in tensors(depth=depth)]
    q, k, v = given
    x = (q if of == "q" else k) - 4.0
    factor = x.amax(-1) if reduce == "max" else x.logsumexp(-1)
    right = (q @ k.mT * 0.25 * factor.unsqueeze(-1 if of == "q" else -2)).softmax(-1) @ v
    found = attngen.compile(scaled)(*given)
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    for mine, expected in zip(*(torch.autograd.grad(x.square().sum(), given) for x in (found, right)), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def test_what_has_no_form_is_refused() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def of_values(q: Any, k: Any, v: Any) -> Any:
        return attngen.einsum(VALUES, attngen.softmax(attngen.einsum(SCORES, q, k), over="n"), v) + attngen.max(v, over="n")

    with pytest.raises(UnsupportedError, match="a maximum over n of values that vary along features"):
        attngen.compile(of_values)(*tensors())

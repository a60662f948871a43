"""Sums of products: which share an accumulator, which not and why, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from attngen.ir.parser import parse
from attngen.kernel.feature_tiles import cuts
from attngen.pipeline import Source, analyse, build
from tests.kernels import harness

TWO = "(s[b,h,m,n] + t[b,h,m,n]) * (extent(d) + extent(r)) ** -0.5  if m >= n"
SIZES = {"b": 1, "h": 2, "m": 40, "n": 50, "d": 32, "r": 16, "e": 48}


def latent(score: str = TWO, more: str = "") -> str:
    """Scores of two products; the keys of the second have no heads."""
    return f"""cascade(q[b,h,m,d], qr[b,h,m,r], k[b,h,n,d], kr[b,n,r], v[b,h,n,e])
  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
  t[b,h,m,n] = sum[r] qr[b,h,m,r] * kr[b,n,r]
{more}  x[b,h,m,n] = {score}
  lse[b,h,m] = logsumexp[n] x[b,h,m,n]
  p[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m])
  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,h,n,e]
  -> o, lse"""


def source(text: str) -> Source:
    return build(analyse(parse(text)), "latent", cuts({"e": 48}))


def notes(text: str) -> dict[str, tuple[bool, str]]:
    found = dict(analyse(parse(text)).rewrites)["join_dots"]
    return {note.step: (note.applied, note.text) for note in found if note.role == "forward"}


def test_two_products_have_one_accumulator() -> None:
    text = source(latent()).text
    assert text.count(", s_total, input_precision=") == 3, "rows, and columns of keys with heads and without"
    assert text.count(", s_total, ACC, EARLY)") == 1, "and the forward, but where its products go ahead before the maximum"
    assert "exp_scaled(s_total, (DIM_D + DIM_R) ** -0.5" in text, "and the scale leaves their sum"


def test_three_products_are_one_sum() -> None:
    score = "(s[b,h,m,n] + t[b,h,m,n] + u[b,h,m,n] + (n - m) * 0.1) * 0.2"
    program = analyse(parse(latent(score, "  u[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d] * d\n")))
    steps = [str(step) for step in program.kernels[0].steps]
    assert "s_total[b,h,m,n] = s[b,h,m,n] + t[b,h,m,n] + u[b,h,m,n]" in steps


@pytest.mark.parametrize(
    ("score", "found"),
    [
        ("(s[b,h,m,n] - t[b,h,m,n]) * 0.2", {}),
        ("tanh(s[b,h,m,n] + t[b,h,m,n]) * s[b,h,m,n]", {"s": (False, "s is needed by itself")}),
        ("s[b,h,m,n] * 0.2 + t[b,h,m,n]", {}),
    ],
)
def test_others_stay(score: str, found: dict[str, tuple[bool, str]]) -> None:
    assert notes(latent(score)) == found


@pytest.mark.kernels
@pytest.mark.parametrize(
    "score",
    [
        TWO,
        "s[b,h,m,n] + t[b,h,m,n]",
        "(s[b,h,m,n] - t[b,h,m,n]) * 0.2",
        "tanh(s[b,h,m,n] + t[b,h,m,n]) * s[b,h,m,n]  if abs(m - n) < 30",
        "tanh((s[b,h,m,n] + t[b,h,m,n]) * 0.2) + n * 0.1",
    ],
)
def test_results_and_gradients(score: str) -> None:
    """The gradient of what all heads share too."""
    check(latent(score), SIZES)


@pytest.mark.kernels
def test_products_in_pieces() -> None:
    check(latent(), SIZES | {"d": 48, "r": 24, "e": 40})


def check(text: str, sizes: dict[str, int]) -> None:
    cascade = parse(text)
    generator = torch.Generator().manual_seed(0)

    def normal(axes: tuple[str, ...]) -> torch.Tensor:
        return torch.randn([sizes[axis] for axis in axes], generator=generator, dtype=torch.float64)

    values = {item.name: normal(item.axes or ()) for item in cascade.inputs}
    cotangents = {name: normal(cascade.axes(name)) for name in cascade.outputs}
    found = harness.run(cascade, values, cotangents, harness.tiles(32, 32))
    harness.exact_to(found, harness.expected(cascade, values, cotangents))

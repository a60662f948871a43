"""Gradients of captured tensors that are read by pairs: exact, the same from run to run, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.frontend.spec import Spec
from attngen.ir.parser import parse
from tests.kernels import cases, harness, programs

Mod = Callable[..., Any]
B, G, R, M, N, D = 2, 2, 2, 37, 51, 16
H = G * R


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


def bucket(distance: Any, both_ways: bool, count: int = 8, furthest: int = 20) -> Any:
    """Buckets of relative positions as transformers' T5 has them; distances are of a key from a query."""
    first: Any = 0
    if both_ways:
        count //= 2
        first = (distance > 0).to(torch.long) * count
        distance = torch.abs(distance)
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    exact = count // 2
    far = exact + (torch.log(distance.float() / exact) / math.log(furthest / exact) * (count - exact)).to(torch.long)
    far = torch.min(far, torch.full_like(far, count - 1))
    return first + torch.where(distance < exact, distance, far)


TABLE, BIAS, SLOPES = values(8, H), values(H, M + N), torch.exp2(-torch.arange(1, H + 1, dtype=torch.float64))
DENSE, ONE, SOME, PLAIN = values(H, M, N), values(1, H, M, N), values(B, 1, M, N), values(M, N)
NEAR, KIND, EDGE = whole(8, B, M, N), whole(5, B, M, N), values(5, H)

BIASES: dict[str, Mod] = {
    "t5": lambda s, b, h, q, k: s + TABLE[bucket(k - q, True), h],
    "t5_causal": lambda s, b, h, q, k: s + TABLE[bucket(k - q, False), h],
    "relative": lambda s, b, h, q, k: s + BIAS[h, q - k + N],
    "alibi": lambda s, b, h, q, k: s - SLOPES[h] * torch.abs(q - k),
    "dense": lambda s, b, h, q, k: s + DENSE[h, q, k],
    "one": lambda s, b, h, q, k: s + ONE[0, h, q, k],
    "some": lambda s, b, h, q, k: s + SOME[b, 0, q, k],
    "plain": lambda s, b, h, q, k: s + PLAIN[q, k],
    "graph": lambda s, b, h, q, k: s + TABLE[NEAR[b, q, k], h] + EDGE[KIND[b, q, k], h],
    "thrice": lambda s, b, h, q, k: s * (1 + 0.1 * BIAS[h, q - k + N]) + BIAS[h, q + k] + BIAS[0, NEAR[0, q, k]] + 0.5 * BIAS[1, k],
    "everything": lambda s, b, h, q, k: s + TABLE[NEAR[b, q, k], h] + BIAS[h, q - k + N] + DENSE[h, q, k] + PLAIN[q, k],
}
MASKS: dict[str, Mod | None] = {
    "all": None,
    "causal": lambda b, h, q, k: q >= k,
    "none_in_some_rows": lambda b, h, q, k: (k < q - 5) & (q % 7 != 3),
    "by_batch": lambda b, h, q, k: k <= q + 20 * b,
    "by_head": lambda b, h, q, k: abs(q - k) <= 6 * h,
    "listed": lambda b, h, q, k: (q * 3 + k) % 7 < 3,
}
FORMS = {
    "t5": "diagonals", "t5_causal": "diagonals", "relative": "diagonals", "dense": "stored", "one": "stored", "some": "stored",
    "plain": "stored", "graph": "sorted",
}  # fmt: skip


def spec(bias: str, mask: str = "all") -> Spec:
    return attngen.attention(BIASES[bias], MASKS[mask])


class Case:
    """Values of a variant, in fp64 or rounded."""

    def __init__(self, variant: Spec, dtype: torch.dtype = torch.float64) -> None:
        shapes = {"q": (B, G, R, M, D), "k": (B, G, N, D), "v": (B, G, N, D)}
        given: dict[str, Any] = {name: values(*shape, seed=7) for name, shape in shapes.items()}
        given |= {capture.name: capture.value for capture in variant.captures}
        outputs = {name: values(*(B, G, R, M, D)[: len(variant.cascade.axes(name))], seed=3) for name in variant.cascade.outputs}

        def rounded(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        self.values = {name: rounded(value) for name, value in given.items()}
        self.cotangents = {name: rounded(value) for name, value in outputs.items()}
        self.cascade = variant.cascade

    def run(self) -> harness.Results:
        return harness.run(self.cascade, self.values, self.cotangents, harness.tiles(16, 32))

    def expected(self) -> harness.Results:
        return harness.expected(self.cascade, self.values, self.cotangents)


@pytest.mark.parametrize("bias", BIASES)
def test_gradients_are_exact(bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no buffer is as large as all pairs: a gradient and its buffers take no more than the tensor and one chunk, for all heads."""
    case = Case(spec(bias))
    sizes = allocated(harness.prepare(case.cascade, case.values), monkeypatch)
    harness.exact_to(case.run(), case.expected())
    captured = [value.numel() for value in case.values.values() if isinstance(value, Tensor)]
    assert max(sizes) <= max(*captured, B * H * 16 * (16 + N), B * H * max(M, N) * D)
    assert max(sizes) < B * H * M * N


def allocated(kernels: harness.Emitted, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of every tensor that a module makes from now on."""
    sizes: list[int] = []
    torch_ = vars(kernels.module)["torch"]
    for name in ("zeros", "full", "empty"):
        make = getattr(torch_, name)

        def counted(shape: Any, *args: Any, make: Any = make, **options: Any) -> Tensor:
            sizes.append(math.prod(shape))
            return make(shape, *args, **options)

        monkeypatch.setattr(torch_, name, counted, raising=False)
    return sizes


@pytest.mark.parametrize(
    ("bias", "mask"),
    [*(("relative", mask) for mask in MASKS if mask != "all"), *(("graph", mask) for mask in ("by_head", "listed")), ("plain", "by_batch")],
)
def test_gradients_under_masks_are_exact(bias: str, mask: str) -> None:
    case = Case(spec(bias, mask))
    harness.exact_to(case.run(), case.expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", ["t5", "alibi", "dense", "graph"])
def test_gradients_keep_the_contract(bias: str, dtype: torch.dtype) -> None:
    case = Case(spec(bias, "causal"), dtype)
    yardstick = harness.yardstick(case.cascade, case.values, case.cotangents, dtype)
    harness.contract(case.run(), case.expected(), yardstick)


@pytest.mark.parametrize("bias", ["t5", "relative", "alibi", "dense", "one", "some", "plain", "graph", "thrice"])
def test_gradients_are_the_same_in_every_run(bias: str) -> None:
    """Again, and with programs in the opposite order, as a GPU might run them."""
    case = Case(spec(bias, "causal"), torch.float32)
    kernels = harness.prepare(case.cascade, case.values)
    tile = harness.tiles(32, 32)
    known = harness.forward(kernels, case.values, tile)
    names = tuple(name for name in kernels.targets if name not in "qkv")

    def gradients() -> dict[str, Tensor]:
        return harness.backward(kernels, case.values, known, case.cotangents, tile, names)

    first, again = gradients(), gradients()
    with programs.last_programs_first(kernels.module):
        other = gradients()
    for found in (again, other):
        for name, value in found.items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("bias", FORMS)
def test_how_gradients_are_formed(bias: str) -> None:
    program = attngen.compile(spec(bias)).program
    forms = {item.form for kernel in program.kernels for item in kernel.scatters}
    assert forms == {FORMS[bias]}
    assert "atomic" not in harness.prepare(Case(spec(bias)).cascade, Case(spec(bias)).values).text


@st.composite
def positions(draw: st.DrawFn) -> Mod:
    """A random position in a table of 64 x 8, within its range."""
    a, b, c, divisor = (draw(st.integers(*ends)) for ends in ((-3, 3), (-3, 3), (0, 9), (1, 5)))
    first = draw(st.sampled_from(("difference", "linear", "quotient", "data", "far")))
    second = draw(st.sampled_from(("h", "b", "constant", "k", "both")))

    def mod(s: Any, batch: Any, h: Any, q: Any, k: Any) -> Any:
        row = {
            "difference": lambda: (q - k) % 64,
            "linear": lambda: (a * q + b * k + c) % 64,
            "quotient": lambda: ((q - k) // divisor + 64) % 64,
            "data": lambda: NEAR[batch, q, k] + c,
            "far": lambda: torch.where(q - k > c, 63, torch.abs(q - k) % 64),
        }[first]()
        column = {"h": lambda: h, "b": lambda: batch, "constant": lambda: 3, "k": lambda: k % 8, "both": lambda: (h + q) % 8}[second]()
        return s + WIDE[row, column]

    return mod


WIDE = values(64, 8)


@settings(max_examples=4, deadline=None)
@given(st.lists(positions(), min_size=1, max_size=2), st.sampled_from(("all", "causal", "by_head")))
def test_random_positions(mods: list[Mod], mask: str) -> None:
    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        for mod in mods:
            s = mod(s, b, h, q, k)
        return s

    case = Case(attngen.attention(score, MASKS[mask]))
    found, golden = case.run(), case.expected()
    for name, value in found.gradients.items():
        torch.testing.assert_close(value, golden.gradients[name], rtol=1e-12, atol=1e-11)


def test_a_tile_that_all_heads_share() -> None:
    """Its gradient is a sum over heads of products over features."""
    text = """cascade(q[b,h,m,d], k[b,h,n,d], v[b,h,n,e]; bias: float[:, :])
  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
  x[b,h,m,n] = s[b,h,m,n] * 0.25
  lse[b,h,m] = logsumexp[n] x[b,h,m,n]
  p[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m])
  c[m,n] = tanh(bias[m,n]) + bias[m,n] * 0.5
  o[b,h,m,e] = sum[n] p[b,h,m,n] * c[m,n] * v[b,h,n,e]
  -> o"""
    case = cases.case(parse(text), cases.Sizes(m=M, n=N, e=D), overrides={"bias": PLAIN})
    found = harness.run(case.cascade, case.values, case.cotangents, harness.tiles(16, 32))
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))

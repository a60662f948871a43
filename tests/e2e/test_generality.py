"""One pipeline for variants that share nothing but a cascade: values and every gradient through the public front ends.

Each is held to the float64 reference with autograd, and to finite differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen import Spec
from tests.e2e.dense import FEW, normal

B, G, R, M, N, D, E = 2, 2, 2, 70, 90, 16, 32
H = G * R


@dataclass(frozen=True)
class Case:
    """A spec, its arguments by shape, and captured tensors that want gradients."""

    spec: Spec
    shapes: dict[str, tuple[int, ...]]
    learned: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


QKV = {"q": (B, H, M, D), "k": (B, G, N, D), "v": (B, G, N, E)}
CASES: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    CASES[build.__name__] = build
    return build


@case
def softmax() -> Case:
    return Case(attngen.attention(), QKV)


@case
def softmax_with_lse() -> Case:
    return Case(attngen.attention(), QKV, options={"return_lse": True})


@case
def causal_softcap() -> Case:
    return Case(attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx + 20 >= kv_idx, softcap=2.0), QKV)


@case
def sigmoid() -> Case:
    return Case(attngen.attention(normalizer="sigmoid"), QKV)


@case
def sigmoid_with_learned_offset() -> Case:
    offset = normal(H)

    def shifted(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + offset[h] - 3.0

    return Case(attngen.attention(shifted, normalizer="sigmoid"), QKV, (offset,))


@case
def relu_over_its_sum() -> Case:
    return Case(attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: abs(q_idx - kv_idx) < 40, normalizer="relu"), QKV)


@case
def squared_relu() -> Case:
    return Case(attngen.attention(normalizer="relu_squared"), QKV)


@case
def scores_themselves() -> Case:
    return Case(attngen.attention(normalizer="identity"), QKV)


@case
def sink() -> Case:
    logits = normal(H)
    return Case(attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx + 3, sink=logits), QKV, (logits,))


@case
def differential() -> Case:
    @attngen.cascade(q1="b h m d", q2="b h m d", k1="b h n d", k2="b h n d", v="b h n e", lam="h")
    def differential(q1: Any, q2: Any, k1: Any, k2: Any, v: Any, lam: Any) -> Any:
        scale = attngen.extent("d") ** -0.5
        s1 = attngen.einsum("b h m d, b h n d -> b h m n", q1, k1) * scale
        s2 = attngen.einsum("b h m d, b h n d -> b h m n", q2, k2) * scale
        p = attngen.softmax(s1, over="n") - lam * attngen.softmax(s2, over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    q, k = (B, 2, M, D), (B, 2, N, D)
    return Case(differential, {"q1": q, "q2": q, "k1": k, "k2": k, "v": (B, 2, N, E), "lam": (2,)})


@case
def causal_differential() -> Case:
    @attngen.cascade(q1="b h m d", q2="b h m d", k1="b h n d", k2="b h n d", v="b h n e", lam="h")
    def differential(q1: Any, q2: Any, k1: Any, k2: Any, v: Any, lam: Any) -> Any:
        scale = attngen.extent("d") ** -0.5
        seen = attngen.causal("m", "n", align="bottom_right")
        s1 = attngen.where(seen, attngen.einsum("b h m d, b h n d -> b h m n", q1, k1) * scale, float("-inf"))
        s2 = attngen.where(seen, attngen.einsum("b h m d, b h n d -> b h m n", q2, k2) * scale, float("-inf"))
        p = attngen.softmax(s1, over="n") - lam * attngen.softmax(s2, over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    q, k = (1, 2, M, D), (1, 2, N, D)
    return Case(differential, {"q1": q, "q2": q, "k1": k, "k2": k, "v": (1, 2, N, E), "lam": (2,)})


@case
def entropy() -> Case:
    """A second output that is a sum of rank two: it needs sum(w) and sum(w * x) at once."""

    @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e")
    def entropy(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k) * attngen.extent("d") ** -0.5
        p = attngen.softmax(s, over="n")
        return attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", p, v), -attngen.sum(p * attngen.log(p), over="n")

    return Case(entropy, QKV)


@case
def gate() -> Case:
    @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e", gate="b (g r) m")
    def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
        s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k) * attngen.extent("d") ** -0.5
        o = attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.softmax(s, over="n"), v)
        return o * attngen.sigmoid(gate)

    return Case(gated, {**QKV, "gate": (B, H, M)})


@case
def gate_per_feature() -> Case:
    @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e", gate="b (g r) m e")
    def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
        s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k) * attngen.extent("d") ** -0.5
        o = attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.softmax(s, over="n"), v)
        return o * attngen.sigmoid(gate)

    return Case(gated, {**QKV, "gate": (B, H, M, E)})


@case
def cosine_similarity() -> Case:
    """Queries and keys are normalised inside the cascade, by sums over the features."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", temperature="h")
    def cosine(q: Any, k: Any, v: Any, temperature: Any) -> Any:
        a = q * attngen.rsqrt(attngen.sum(q * q, over="d") + 1e-6)
        b = k * attngen.rsqrt(attngen.sum(k * k, over="d") + 1e-6)
        s = attngen.einsum("b h m d, b h n d -> b h m n", a, b) * attngen.exp(temperature)
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)

    return Case(cosine, {"q": (B, H, M, D), "k": (B, H, N, D), "v": (B, H, N, E), "temperature": (H,)})


@case
def named_outputs() -> Case:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def two(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.extent("d") ** -0.5
        p = attngen.softmax(s, over="n")
        return {"mean": attngen.einsum("b h m n, b h n e -> b h m e", p, v), "peak": attngen.logsumexp(s, over="n")}

    return Case(two, {"q": (B, H, M, D), "k": (B, H, N, D), "v": (B, H, N, E)})


@case
def second_moment() -> Case:
    """Two accumulators of the size of v."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def moments(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.extent("d") ** -0.5
        p = attngen.softmax(s, over="n")
        mean = attngen.einsum("b h m n, b h n e -> b h m e", p, v)
        return mean, attngen.einsum("b h m n, b h n e -> b h m e", p, v * v) - mean * mean

    return Case(moments, {"q": (B, 2, M, D), "k": (B, 2, N, D), "v": (B, 2, N, E)})


@case
def factors_of_rows_and_keys() -> Case:
    """Scores times a temperature of the query and a gate of the key."""
    temperature, gate = normal(B, M), normal(H, N, seed=1)

    def scaled(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score * torch.exp(temperature[b, q_idx]) * gate[h, kv_idx]

    return Case(attngen.attention(scaled, lambda b, h, q_idx, kv_idx: q_idx + 20 >= kv_idx), QKV, (temperature, gate))


@case
def factors_as_arguments() -> Case:
    @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e", temperature="b m", gate="g n")
    def scaled(q: Any, k: Any, v: Any, temperature: Any, gate: Any) -> Any:
        s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k) * temperature * gate
        return attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.softmax(s, over="n"), v)

    return Case(scaled, {**QKV, "temperature": (B, M), "gate": (G, N)})


@case
def contextual_bias() -> Case:
    """A second product of other rows, whose keys all heads share, bounds and adds to the scores."""

    @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e", q2="b (g r) m c", k2="b n c")
    def contextual(q: Any, k: Any, v: Any, q2: Any, k2: Any) -> Any:
        bias = attngen.tanh(attngen.einsum("b (g r) m c, b n c -> b (g r) m n", q2, k2))
        s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k) * attngen.extent("d") ** -0.5 + bias
        s = attngen.where(attngen.causal("m", "n", align="bottom_right"), s, float("-inf"))
        return attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.softmax(s, over="n"), v)

    return Case(contextual, {**QKV, "q2": (B, H, M, 8), "k2": (B, N, 8)})


@case
def bias_of_all_batches() -> Case:
    """Rows and keys of the second product lack axes that the scores have."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", rows="m c", keys="h n c")
    def shared(q: Any, k: Any, v: Any, rows: Any, keys: Any) -> Any:
        bias = attngen.einsum("m c, h n c -> h m n", rows, keys)
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.extent("d") ** -0.5 + bias
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)

    return Case(shared, {"q": (B, 2, M, D), "k": (B, 2, N, D), "v": (B, 2, N, E), "rows": (M, 8), "keys": (2, N, 8)})


@case
def branches_by_position() -> Case:
    """Near keys and far ones are scored by different products, as in rotary embeddings that stop rotating."""

    @attngen.cascade(q="b h m d", k="b h n d", q2="b h m d", k2="b h n d", v="b h n e")
    def branches(q: Any, k: Any, q2: Any, k2: Any, v: Any) -> Any:
        near = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        far = attngen.einsum("b h m d, b h n d -> b h m n", q2, k2)
        distance = attngen.index("m") - attngen.index("n")
        s = torch.where(distance < 7, near, far) * attngen.extent("d") ** -0.5
        s = attngen.where(distance >= -20, s, float("-inf"))
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)

    q, k = (B, 2, M, D), (B, 2, N, D)
    return Case(branches, {"q": q, "k": k, "q2": q, "k2": k, "v": (B, 2, N, E)})


@case
def branches_of_captured_rows() -> Case:
    q2, k2 = normal(B, H, M, 24), normal(G, N, 24, seed=1)

    def either(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return torch.where(q_idx - kv_idx < 7, score, q2[b, h, q_idx] @ k2[h // R, kv_idx])

    return Case(attngen.attention(either, normalizer="sigmoid"), QKV, (q2, k2))


@case
def low_rank_bias() -> Case:
    """Factors per batch and head, and shared ones."""
    own = normal(B, H, M, 5), normal(1, H, N, 5, seed=1)
    shared = normal(M, 3, seed=2), normal(N, 3, seed=3)
    first, second = attngen.low_rank(*own), attngen.low_rank(*shared)

    def biased(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + first(b, h, q_idx, kv_idx) - 0.5 * second(b, h, q_idx, kv_idx)

    return Case(attngen.attention(biased, lambda b, h, q_idx, kv_idx: q_idx + 20 >= kv_idx), QKV, (*own, *shared))


@case
def dropout_with_a_sink() -> Case:
    logits = normal(H)
    spec = attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx + 3, sink=logits, dropout=0.3)
    return Case(spec, QKV, (logits,), {"seed": 5})


@case
def learned_biases() -> Case:
    """Captured tensors of every rank, each with a gradient."""
    bias, column, row, scalar = normal(H, M, N), normal(B, N, seed=1), normal(M, seed=2), normal(seed=3)
    distance = normal(M + N, seed=4)

    def biased(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score * torch.sigmoid(row[q_idx]) + bias[h, q_idx, kv_idx] + column[b, kv_idx] * scalar + distance[q_idx - kv_idx + N]

    return Case(attngen.attention(biased), QKV, (bias, column, row, scalar, distance))


def arguments(case: Case, limit: int | None = None) -> dict[str, Tensor]:
    """Leaves by name; with `limit`, sequences are at most that long, one batch."""
    found: dict[str, Tensor] = {}
    for seed, (name, shape) in enumerate(case.shapes.items()):
        found[name] = normal(*shape, seed=seed)
    return found


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    case = CASES[name]()
    attend = attngen.compile(case.spec, schedule=FEW)
    tensors = arguments(case)
    leaves = [*tensors.values(), *case.learned]
    found, expected = attend(**tensors, **case.options), attend.reference(**tensors, **case.options)
    assert isinstance(found, dict) == isinstance(expected, dict)
    mine, right = flat(found), flat(expected)
    cotangents = [normal(*value.shape, seed=11).detach() for value in right]
    mine += torch.autograd.grad(mine, leaves, cotangents)
    right += torch.autograd.grad(right, leaves, cotangents)
    for position, (value, golden) in enumerate(zip(mine, right, strict=True)):
        assert value.shape == golden.shape
        assert value.dtype == torch.float64
        error, scale = (value - golden).abs().max().item(), max(1.0, golden.abs().max().item())
        assert error <= 1e-12 * scale, f"value {position}: off by {error:.2e}"


@pytest.mark.parametrize("name", [name for name in CASES if name != "learned_biases"])
def test_finite_differences(name: str) -> None:
    """Gradients as PyTorch's own check sees them, at lengths below one tile."""
    case = CASES[name]()
    attend = attngen.compile(case.spec, schedule=FEW)
    short = {("m",): 7, ("n",): 9, ("b",): 1}
    shapes = [
        [short.get(dim, size) for dim, size in zip(argument.pattern, case.shapes[argument.name], strict=True)]
        for argument in case.spec.arguments
    ]
    tensors = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(attend(*values[: len(tensors)], **case.options)))

    assert torch.autograd.gradcheck(run, (*tensors, *case.learned), fast_mode=True, nondet_tol=1e-12)

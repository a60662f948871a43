"""Every rewrite of kernels on random scores: with it and without it, outputs and all gradients are those of the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.pipeline import REWRITES
from tests.kernels import harness

B, H, M, N, RANK = 1, 2, 21, 37, 5
TILES = harness.tiles(16, 32)
DRAWS, RUNS = 16, 3
Term = Callable[[Any, Any, Any, Any], Any]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


slopes, table, dense = torch.tensor([0.5, 0.0625], dtype=torch.float64), normal(H, M + N), normal(H, M, N)
row, key, place = normal(B, M), normal(B, N), 50.0 + normal(B, M + N, 2)
heat, rate, bound, offset = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), 15.0, 4
product = attngen.low_rank(normal(H, M, RANK), normal(N, RANK))

SCALES: dict[str, Callable[[Any], Any]] = {
    "none": lambda s: s,
    "positive": lambda s: s * 0.25,
    "negative": lambda s: s * -0.3,
    "captured": lambda s: s * heat,
}
CAPS: dict[str, Callable[[Any], Any]] = {
    "none": lambda s: s,
    "number": lambda s: 20.0 * torch.tanh(s / 20.0),
    "captured number": lambda s: bound * torch.tanh(s / bound),
    "captured": lambda s: heat * torch.tanh(s / heat),
}
FACTORS: dict[str, Term] = {
    "none": lambda b, h, q, k: 1.0,
    "row": lambda b, h, q, k: row[b, q],
    "key": lambda b, h, q, k: torch.sigmoid(key[b, k]),
    "distance": lambda b, h, q, k: torch.exp(-0.1 * torch.abs(q - k)),
}
BIASES: dict[str, Term] = {
    "cosine": lambda b, h, q, k: torch.cos(0.3 * (q - k)),
    "alibi": lambda b, h, q, k: slopes[h] * (k - q),
    "absolute": lambda b, h, q, k: slopes[h] * torch.abs(q + offset - k),
    "square": lambda b, h, q, k: 0.01 * (q - k) ** 2,
    "sine": lambda b, h, q, k: torch.sin(rate * (k - q)),
    "points": lambda b, h, q, k: 0.1 * (place[b, q, 0] - place[b, k, 0]) ** 2,
    "row": lambda b, h, q, k: row[b, q],
    "key": lambda b, h, q, k: key[b, k] * 0.5,
    "outer": lambda b, h, q, k: row[b, q] * key[b, k],
    "position": lambda b, h, q, k: 0.02 * k,
    "remainder": lambda b, h, q, k: heat * ((q - k) % 5),
    "table": lambda b, h, q, k: table[h, q - k + N],
    "dense": lambda b, h, q, k: dense[h, q, k],
}
MASKS: dict[str, Term | None] = {
    "none": None,
    "causal": lambda b, h, q, k: q + 5 >= k,
    "window": lambda b, h, q, k: abs(q - k) <= 7,
    "nothing for some": lambda b, h, q, k: q > k + 3,
    "listed": lambda b, h, q, k: (q * 3 + k) % 7 < 3,
}


@dataclass(frozen=True)
class Score:
    """A score by its parts, in the order in which they act on the product of queries and keys."""

    second: bool
    scale: str
    factor: str
    cap: str
    biases: tuple[tuple[float, str], ...]
    mask: str
    dim: int

    def spec(self) -> attngen.Spec:
        def mod(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            s = SCALES[self.scale](s + product(b, h, q, k) if self.second else s)
            s = CAPS[self.cap](s if self.factor == "none" else s * FACTORS[self.factor](b, h, q, k))
            for sign, name in self.biases:
                bias = BIASES[name](b, h, q, k)
                s = s + bias if sign > 0 else s - bias
            return s

        return attngen.attention(mod, MASKS[self.mask], scale=1.0, name="rewritten")


def scores(**fixed: Any) -> st.SearchStrategy[Score]:
    """Scores of all kinds, some of their parts given: a value, or a choice."""
    parts: dict[str, st.SearchStrategy[Any]] = {
        "second": st.booleans(),
        "scale": st.sampled_from(list(SCALES)),
        "factor": st.sampled_from(list(FACTORS)),
        "cap": st.sampled_from(list(CAPS)),
        "biases": biases(),
        "mask": st.sampled_from(list(MASKS)),
        "dim": st.sampled_from([16, 24, 48]),
    }
    return st.builds(
        Score, **parts | {name: part if isinstance(part, st.SearchStrategy) else st.just(part) for name, part in fixed.items()}
    )


def biases(*first: str, more: Iterable[str] = BIASES) -> st.SearchStrategy[tuple[tuple[float, str], ...]]:
    """What is added to a score: one of the first names, if there are any, and up to two more."""

    def signed(names: Iterable[str]) -> st.SearchStrategy[tuple[float, str]]:
        return st.tuples(st.sampled_from([1.0, -1.0]), st.sampled_from(list(names)))

    rest = st.lists(signed(more), max_size=2).map(tuple)
    return st.tuples(signed(first), rest).map(lambda pair: (pair[0], *pair[1])) if first else rest


PLAIN = {"factor": "none", "cap": "none"}
APPLIES: dict[str, st.SearchStrategy[Score]] = {
    "static_max": scores(cap="number", biases=biases(more=["cosine"])),
    "join_dots": scores(second=True),
    "bias_separation": scores(biases=biases("alibi", "square", "sine", "cosine", "outer")),
    "bias_as_dot": scores(**PLAIN, scale=st.sampled_from(["none", "positive"]), biases=biases("alibi", more=["alibi", "position"])),
    "scale_folding": scores(**PLAIN, scale="positive", biases=()),
    "float_distances": scores(biases=biases("absolute", "alibi")),
}
"""Scores that a rewrite has something to do with; not all of them are changed by it."""
DTYPES = {"float64": "bfloat16", "bfloat16": "bfloat16", "float32": "float32", "float16": "float16"}
"""Which rewrites are done to the kernels that run at each precision."""


def draw(spec: attngen.Spec, dim: int, dtype: torch.dtype, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments, captures and cotangents."""
    shapes = {"q": (B, 1, H, M, dim), "k": (B, 1, N, dim), "v": (B, 1, N, dim)}
    values: dict[str, Any] = {name: normal(*shape, seed=10 * seed + i) for i, (name, shape) in enumerate(shapes.items())}
    values["q"] *= dim**-0.5 * 2
    values |= {item.name: item.value for item in spec.captures}
    values = {name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in values.items()}
    return values, {"o": normal(B, 1, H, M, dim, seed=seed + 7).to(dtype), "lse": normal(B, 1, H, M, seed=seed + 8).to(torch.float32)}


@pytest.mark.parametrize("rewrite", APPLIES)
@settings(max_examples=max(1, settings.default.max_examples // 25), suppress_health_check=list(HealthCheck))
@given(data=st.data(), asked=st.booleans())
def test_a_rewrite_changes_no_result(rewrite: str, data: st.DataObject, asked: bool) -> None:
    dtype = data.draw(st.sampled_from([name for name, like in DTYPES.items() if like in (REWRITES[rewrite].dtypes or DTYPES)]))
    score = data.draw(APPLIES[rewrite])
    spec, must = score.spec(), frozenset({"bias_separation"} if asked else ())
    draws = [draw(spec, score.dim, getattr(torch, dtype), seed) for seed in range(1 if dtype == "float64" else DRAWS)]
    assume(rewrite in harness.prepare(spec, draws[0][0], rewrites=DTYPES[dtype], asked=must).rewritten)
    golden = [harness.expected(spec, *values) for values in draws]
    plain = [harness.yardstick(spec, *values, getattr(torch, dtype)) for values in draws if dtype != "float64"]
    for without in (frozenset[str](), frozenset({rewrite})):
        found = [harness.run(spec, *values, TILES, rewrites=DTYPES[dtype], without=without, asked=must) for values in draws[:RUNS]]
        if dtype == "float64":
            harness.exact_to(found[0], golden[0])
        else:
            harness.contract_of_draws(found, golden, plain)


def test_all_rewrites_are_here() -> None:
    assert set(APPLIES) == set(REWRITES)

"""Biases apart: which are recognised and with which rank, that they stay what they were, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attngen
from attngen.errors import RewriteRefused
from attngen.kernel.rewrites.note import Note
from attngen.pipeline import analyse, build, for_dtype
from tests.kernels import harness

B, H, M, N, D = 1, 2, 50, 70, 16
LONGEST = max(M, N)
DRAWS, RUNS = 16, 3
Values = dict[str, torch.Tensor]
SPLIT = frozenset({"bias_separation"})
Mod = Callable[..., Any]


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


slopes = torch.tensor([0.5, 0.0625], dtype=torch.float64)
place = 100.0 + 2.0 * draw(B, LONGEST, 3)
left, right = draw(B, LONGEST), draw(B, LONGEST, seed=2)
rate = torch.tensor(0.3, dtype=torch.float64)


def squared_distance(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s - 0.1 * sum((place[b, q, i] - place[b, k, i]) ** 2 for i in range(3))


MODS: dict[str, tuple[Mod, int]] = {
    "alibi": (lambda s, b, h, q, k: s + slopes[h] * (k - q), 1),
    "alibi twice": (lambda s, b, h, q, k: 2.0 * s - slopes[h] * (q - k) + 0.01 * (k - q), 1),
    "square": (lambda s, b, h, q, k: s - 0.01 * slopes[h] * (q - k) ** 2, 2),
    "squared distance": (squared_distance, 4),
    "cosine": (lambda s, b, h, q, k: s + torch.cos(rate * (q - k)), 2),
    "sine": (lambda s, b, h, q, k: s + 0.5 * torch.sin(0.3 * (q - k)), 2),
    "outer product": (lambda s, b, h, q, k: s + left[b, q] * right[b, k], 1),
    "rows and keys": (lambda s, b, h, q, k: s + left[b, q] + right[b, k], 1),
    "rows": (lambda s, b, h, q, k: s + left[b, q] * slopes[h], 0),
    "positions of keys": (lambda s, b, h, q, k: s + 0.01 * k - slopes[h] * (q - k), 1),
    "scaled": (lambda s, b, h, q, k: s * rate + slopes[h] * (k - q), 1),
}


NO_GAIN = ("squared distance", "rows and keys", "rows")
"""Values of keys that are formed anew in each turn cost more than they save; captured values of a row stay with each element."""


def notes(spec: attngen.Spec, name: str, dtype: str = "bfloat16", role: str = "forward") -> list[Note]:
    """What a rewrite says of one kernel."""
    return [note for note in dict(for_dtype(analyse(spec.cascade), dtype).rewrites).get(name, ()) if note.role == role]


def case(spec: attngen.Spec, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> tuple[dict[str, Any], Values]:
    """Values and cotangents."""
    shapes = {"q": (B, 1, H, M, D), "k": (B, 1, N, D), "v": (B, 1, N, D)}
    values: dict[str, Any] = {name: draw(*shape, seed=i + 10 * seed).mul(scale).to(dtype) for i, (name, shape) in enumerate(shapes.items())}
    values |= {item.name: item.value.to(dtype) if isinstance(item.value, torch.Tensor) else item.value for item in spec.captures}
    return values, {"o": draw(B, 1, H, M, D, seed=7 + 10 * seed).to(dtype), "lse": draw(B, 1, H, M, seed=8 + 10 * seed).to(torch.float32)}


@pytest.mark.parametrize("name", MODS)
def test_rank(name: str) -> None:
    mod, rank = MODS[name]
    (note,) = notes(attngen.attention(mod, name="biased"), "bias_separation")
    assert note.applied == (name not in NO_GAIN)
    assert note.text.startswith(f"rank {rank},")


@pytest.mark.kernels
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", MODS)
def test_the_algebra_is_exact(name: str, masked: bool) -> None:
    """The kernels of 16 bits, run in float64; tiles start everywhere."""
    spec = attngen.attention(MODS[name][0], (lambda b, h, q, k: q + 5 >= k) if masked else None, name="biased")
    values, cotangents = case(spec, torch.float64)
    found = harness.run(spec, values, cotangents, harness.tiles(32, 16), rewrites="bfloat16", asked=SPLIT)
    harness.exact_to(found, harness.expected(spec, values, cotangents))


@pytest.mark.kernels
@pytest.mark.parametrize("masked", [True, False])
def test_one_walk_is_exact_with_a_bias_apart(masked: bool) -> None:
    spec = attngen.attention(MODS["alibi"][0], (lambda b, h, q, k: q + 5 >= k) if masked else None, name="biased")
    values, cotangents = case(spec, torch.float64)
    found = harness.run(spec, values, cotangents, harness.tiles(32, 16), rewrites="bfloat16", one_walk=True)
    harness.exact_to(found, harness.expected(spec, values, cotangents))


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODS)
def test_contract(name: str, dtype: torch.dtype) -> None:
    spec = attngen.attention(MODS[name][0], name="biased")
    values, cotangents = case(spec, dtype)
    found = harness.run(spec, values, cotangents, asked=SPLIT)
    harness.contract(found, harness.expected(spec, values, cotangents), harness.yardstick(spec, values, cotangents, dtype))


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["alibi", "squared distance", "cosine"])
def test_folded_biases_are_as_exact_as_an_addition(name: str) -> None:
    """Far from the diagonal and far from the origin, against kernels that add biases as they are; captured values are of fp32."""
    spec = attngen.attention(MODS[name][0], name="biased")
    values, cotangents = case(spec, torch.bfloat16)
    values |= {capture.name: (capture.value * 1.1).float() for capture in spec.captures}
    golden = harness.expected(spec, values, cotangents)
    errors = [
        {key: float((value.double() - right).abs().max()) for (key, value), (_, right) in zip(found.items(), golden.items(), strict=True)}
        for found in (harness.run(spec, values, cotangents, rewrites=rewrites, asked=SPLIT) for rewrites in ("bfloat16", "float32"))
    ]
    for key, mine in errors[0].items():
        assert mine <= 1.1 * errors[1][key] + 1e-6, f"{key}: {mine:.2e}, without rewrites {errors[1][key]:.2e}"


@pytest.mark.kernels
def test_folded_biases_go_ahead_with_their_products() -> None:
    """Behind the maximum in the same accumulator, to the bit; before it added element by element, to the rounding of one addition."""
    spec = attngen.attention(MODS["alibi"][0], mask_mod=lambda b, h, q, k: q >= k - 20, name="biased")
    values, _ = case(spec, torch.bfloat16)
    kernels, tiles = harness.prepare(spec, values), harness.tiles(16, 16)
    forms = [{}, {"PIPE": True, "TMA": True, "LATE": True}, {"PIPE": True, "TMA": True}]
    plain, late, apart = (harness.forward(kernels, values, {**tiles, "forward": {**tiles["forward"], **form}}) for form in forms)
    for name, value in plain.items():
        assert torch.equal(late[name], value), name
        torch.testing.assert_close(apart[name], value, rtol=2**-8 if name == "o" else 1e-5, atol=1e-5)


def test_folds_of_slopes_take_three_columns() -> None:
    (note,) = notes(attngen.attention(MODS["alibi"][0], name="biased"), "bias_as_dot")
    assert (note.applied, note.text) == (True, "rank 1 in 3 columns of a product, 1 operations less for each pair")
    for role in ("backward_rows", "backward_columns"):
        (other,) = notes(attngen.attention(MODS["alibi"][0], name="biased"), "bias_as_dot", role=role)
        assert (other.applied, other.text) == (True, "rank 1 in 6 columns of a product, 1 operations less for each pair")
    assert not notes(attngen.attention(MODS["alibi"][0], name="biased"), "bias_as_dot", "float16")


def test_rows_give_to_a_folded_bias_what_stays_from_turn_to_turn() -> None:
    """What is left to add to a row is a number, and slopes of heads that share keys are laid out before each head's stream."""
    program = for_dtype(analyse(attngen.attention(MODS["alibi"][0]).cascade), "bfloat16")
    kernels = {kernel.role: kernel for kernel in program.kernels}
    for role in ("backward_rows", "backward_columns"):
        weight = next(step for step in kernels[role].steps if step.name == "w")
        assert "lse_safe[b,g,r,m] - slopes[g * extent(r) + r] * to_float(start(n) - start(m))" in str(weight)
        assert not any(step.name == "x_row" for step in kernels[role].steps)
    assert any(step.name == "x_row" for step in kernels["forward"].steps), "maxima are measured from the whole value"
    columns = build(program, "biased").text.partition("def backward_columns_kernel")[2].partition("\ndef ")[0]
    places = [columns.index(part) for part in ("psi = columns(", "for item in range(len_r):", "phi = columns(", "for segment in")]
    assert places == sorted(places)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_precisions_add_biases_as_they_are(dtype: str) -> None:
    program = analyse(attngen.attention(MODS["alibi"][0], name="biased").cascade)
    assert for_dtype(program, dtype) is program


@pytest.mark.parametrize(
    ("mod", "reason"),
    [
        (lambda s, b, h, q, k: s + right[b, k], "rank 1, 2 operations for each pair, 2 as it was written"),
        (lambda s, b, h, q, k: s - 0.1 * (q // 16 - k // 16) ** 2, "m // 16 has no form relative to a tile"),
        (lambda s, b, h, q, k: s + 0.001 * q * k, "a power of a position is not exact, other than in a power of a distance"),
    ],
)
def test_what_stays(mod: Mod, reason: str) -> None:
    (note,) = notes(attngen.attention(mod, name="biased"), "bias_separation")
    assert (note.applied, note.text) == (False, reason)


@pytest.mark.parametrize(
    ("mod", "dtype", "why"),
    [
        (MODS["cosine"][0], None, "not x_tile, for cos"),
        (MODS["alibi"][0], "float16", "it is left out, or not for float16"),
        (None, None, "no step has its form"),
    ],
)
def test_a_rewrite_that_is_asked_for_applies_or_is_refused(mod: Mod | None, dtype: str | None, why: str) -> None:
    attngen.compile(attngen.attention(MODS["alibi"][0], name="biased"), require=["bias_separation", "bias_as_dot"])
    attngen.compile(attngen.attention(squared_distance, name="biased"), require=["bias_separation"])
    with pytest.raises(RewriteRefused, match=why):
        attngen.compile(attngen.attention(mod, name="biased"), dtype=dtype, require=["bias_as_dot"])


@pytest.mark.kernels
@pytest.mark.parametrize("large", [-1e9, float(torch.finfo(torch.bfloat16).min)])
@pytest.mark.parametrize("of", ["rows", "keys"])
def test_masks_of_large_numbers(of: str, large: float) -> None:
    """What stands in for minus infinity in many a model, beside slopes: rows and keys that it excludes, forward and backward."""
    row, key = torch.zeros(B, LONGEST, dtype=torch.float64), torch.zeros(B, LONGEST, dtype=torch.float64)
    {"rows": row, "keys": key}[of][:, 5:30] = large
    spec = attngen.attention(lambda s, b, h, q, k: s + slopes[h] * (k - q) + row[b, q] + key[b, k], name="biased")
    values, cotangents = case(spec, torch.bfloat16)
    cotangents["lse"] = torch.zeros_like(cotangents["lse"])
    for without in (frozenset[str](), SPLIT):
        found, golden = harness.run(spec, values, cotangents, without=without), harness.expected(spec, values, cotangents)
        # Scores of excluded rows are lost in fp32, and at its end rows attend to nothing; elsewhere results are those of the reference.
        kept = [i for i in range(M) if of == "keys" or not 5 <= i < 30]
        assert all(value.isfinite().all() for _, value in found.items() if value.dtype == torch.bfloat16)
        right = golden.outputs["o"][..., kept, :]
        assert (found.outputs["o"].double()[..., kept, :] - right).abs().max() <= 0.02 * right.abs().max()


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("where", ["row", "key", "both", "place of a key"])
def test_infinite_biases_exclude_what_they_did(where: str, dtype: torch.dtype) -> None:
    """An additive mask of minus infinity is a captured value like any other."""
    row, key, far = draw(B, LONGEST), draw(B, LONGEST, seed=3), place.clone()
    if where in ("row", "both"):
        row[:, 3:7] = -torch.inf
    if where in ("key", "both"):
        key[:, 5:40] = -torch.inf
    if where == "place of a key":
        far[:, 60:, 1] = torch.inf

    def mod(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s + row[b, q] + key[b, k] - 0.1 * (far[b, q, 1] - far[b, k, 1]) ** 2

    spec = attngen.attention(mod, name="biased")
    values, cotangents = case(spec, dtype)
    kernels = harness.prepare(spec, values, rewrites="bfloat16", asked=SPLIT)
    found = harness.forward(kernels, values, harness.tiles(16, 16))
    golden = harness.expected(spec, values, cotangents).outputs
    torch.testing.assert_close(found["o"].double(), golden["o"].nan_to_num(0.0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(found["lse"].double(), golden["lse"], rtol=1e-3, atol=1e-3)


@st.composite
def mods(draw: st.DrawFn) -> Mod:
    """A score with several terms of a few kinds."""
    kinds: list[Callable[[Any, Any, Any, Any], Any]] = [
        lambda b, h, q, k: slopes[h] * (k - q),
        lambda b, h, q, k: left[b, q],
        lambda b, h, q, k: right[b, k] * 0.5,
        lambda b, h, q, k: left[b, q] * right[b, k],
        lambda b, h, q, k: -0.001 * (q - k) ** 2,
        lambda b, h, q, k: torch.cos(rate * (k - q)),
        lambda b, h, q, k: -0.1 * (place[b, q, 0] - place[b, k, 0]) ** 2,
        lambda b, h, q, k: torch.tanh(left[b, q] + right[b, k]),
        lambda b, h, q, k: 0.02 * k,
    ]
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=3, max_size=3))
    return lambda s, b, h, q, k: s + sum(sign * kind(b, h, q, k) for sign, kind in zip(signs, chosen, strict=False))


@pytest.mark.kernels
@settings(max_examples=12)
@given(
    mod=mods(),
    dtype=st.sampled_from([torch.float64, torch.bfloat16]),
    without=st.sampled_from([frozenset[str](), frozenset({"bias_as_dot"}), SPLIT]),
    asked=st.sampled_from([frozenset[str](), SPLIT]),
)
def test_random_biases(mod: Mod, dtype: torch.dtype, without: frozenset[str], asked: frozenset[str]) -> None:
    spec = attngen.attention(mod, lambda b, h, q, k: q + 5 >= k, name="biased")
    draws = [case(spec, dtype, seed=seed) for seed in range(1 if dtype == torch.float64 else DRAWS)]
    golden = [harness.expected(spec, *values) for values in draws]
    found = [
        harness.run(spec, *values, harness.tiles(32, 16), rewrites="bfloat16", without=without, asked=asked) for values in draws[:RUNS]
    ]
    if dtype == torch.float64:
        harness.exact_to(found[0], golden[0])
    else:
        harness.contract_of_draws(found, golden, [harness.yardstick(spec, *values, dtype) for values in draws])

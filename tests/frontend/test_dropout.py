"""Dropout as it is written: one step of factors, drawn from a seed that is no part of the variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attngen
from attngen.errors import SpecError
from attngen.frontend.dropout import without_dropout
from tests.transform.laws import assert_gradients, assert_values


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def twice(q: Any, k: Any, v: Any) -> Any:
    s = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
    p = attngen.dropout(attngen.softmax(s, over="n"), 0.25) + attngen.dropout(attngen.sigmoid(s), 0.5)
    return attngen.einsum("b h m n, b h n e -> b h m e", p, v)


def keeps(spec: attngen.Spec) -> list[str]:
    return [line.strip() for line in str(spec.cascade).splitlines() if "random_bits" in line]


def test_it_is_a_factor_of_the_weights() -> None:
    spec = attngen.attention(dropout=0.5)
    assert keeps(spec) == ["keep[b,g,r,m,n] = where(random_bits(seed, (b * extent(g) + g) * extent(r) + r, m, n) >= 1073741824, 2.0, 0.0)"]
    assert "o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * keep[b,g,r,m,n] * v[b,g,n,e]" in str(spec.cascade)
    assert "lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]" in str(spec.cascade)
    assert (spec.seed, [capture.name for capture in spec.captures]) == ("seed", ["seed"])


def test_every_draw_has_a_stream_of_its_own() -> None:
    first, second = keeps(twice)
    assert "random_bits(seed, b * extent(h) + h, m, n) >= 536870912" in first
    assert f"random_bits(seed, b * extent(h) + h + {2**48}, m, n) >= 1073741824" in second
    assert str(twice.cascade).count("seed: int[]") == 1


def test_values_of_one_axis_or_none() -> None:
    @attngen.cascade(q="b m d", k="b n d", v="b n e", gate="b n")
    def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
        p = attngen.softmax(attngen.einsum("b m d, b n d -> b m n", q, k), over="n")
        return attngen.einsum("b m n, b n e -> b m e", p * attngen.dropout(attngen.sigmoid(gate), 0.1), v)

    assert "random_bits(seed, 0, b, n)" in keeps(gated)[0]


@pytest.mark.parametrize("spec", [twice, *(attngen.attention(dropout=0.3, normalizer=kind) for kind in ("softmax", "relu", "sigmoid"))])
def test_what_is_derived(spec: attngen.Spec) -> None:
    assert_values(str(spec.cascade))
    assert_gradients(str(spec.cascade))


def test_inference_is_the_variant_without_it() -> None:
    plain = without_dropout(attngen.attention(dropout=0.5))
    assert (plain.seed, plain.captures) == (None, ())
    assert "keep" not in str(plain.cascade)
    text = str(attngen.attention().cascade)
    assert str(without_dropout(plain).cascade) == str(plain.cascade) == text
    assert str(attngen.attention(dropout=0.0).cascade) == text
    assert "random_bits" not in str(without_dropout(twice).cascade)


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, float("nan"), float("inf"), True, "0.1", torch.tensor(0.1)])
def test_a_rate_is_a_number_from_zero_to_one(rate: Any) -> None:
    with pytest.raises(SpecError, match="dropout with"):
        attngen.attention(dropout=rate)


def test_a_wrong_rate_is_shown() -> None:
    rate = 1.0
    with pytest.raises(SpecError, match=r"dropout with rate 1\.0") as caught:

        @attngen.cascade(q="b m d", k="b n d", v="b n e")
        def all_of_it(q: Any, k: Any, v: Any) -> Any:
            p = attngen.softmax(attngen.einsum("b m d, b n d -> b m n", q, k), over="n")
            return attngen.einsum("b m n, b n e -> b m e", attngen.dropout(p, rate), v)

    assert "attngen.dropout(p, rate)" in str(caught.value)


@pytest.mark.parametrize("name", ["seed", "return_seed", "training", "return_lse"])
def test_options_of_a_call_are_no_names_of_arguments(name: str) -> None:
    with pytest.raises(SpecError, match=name):
        attngen.cascade(**{name: "b m d"})(eval(f"lambda {name}: {name}"))

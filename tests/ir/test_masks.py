from __future__ import annotations

import pytest

from attngen.ir.masks import lift_masks, unlifted_masks
from attngen.ir.parser import parse

HEAD = "cascade(q[h,m,d], k[h,n,d], v[h,n,e], g[h,n], l[h,m]; scale: float, rate: float[:], pad: bool[:,:])\n"
SCORES = "  s[h,m,n] = sum[d] q[h,m,d] * k[h,n,d]\n"
SOFTMAX = "  lse[h,m] = logsumexp[n] x[h,m,n]\n  p[h,m,n] = exp(x[h,m,n] - lse[h,m])\n  o[h,m,e] = sum[n] p[h,m,n] * v[h,n,e]\n  -> o"
S = "s[h,m,n]"


def lifted(steps: str, name: str) -> str:
    step = lift_masks(parse(HEAD + SCORES + steps)).step(name)
    assert step is not None
    return str(step).partition(" = ")[2].removeprefix("sum[n] ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where(m > n, S, -inf)", "S  if m > n"),
        ("where(m > n, -inf, S)", "S  if not m > n"),
        ("where(m > n, where(m < 5, S, -inf), -inf)", "S  if m > n and m < 5"),
        ("g[h,n] + where(m > n, S, -inf)", "g[h,n] + S  if m > n"),
        ("where(m > n, S, -inf) - g[h,n]", "S - g[h,n]  if m > n"),
        ("where(m > n, 0.0, -inf) + S", "S  if m > n"),
        ("S - where(m > n, 0.0, inf)", "S  if m > n"),
        ("S + log(to_float(m > n))", "S  if m > n"),
        ("-where(m > n, S, inf)", "-S  if m > n"),
        ("where(m > n, S, -inf) * 0.5", "S * 0.5  if m > n"),
        ("where(m > n, S, -inf) / 2", "S / 2  if m > n"),
        ("where(m > n, S, inf) * -0.5", "S * -0.5  if m > n"),
        ("where(m > n, S, -inf) * extent(d) ** -0.5", "S * extent(d) ** -0.5  if m > n"),
        ("where(m > n, S, -inf) / exp(g[h,n])", "S / exp(g[h,n])  if m > n"),
        ("(l[h,m] * l[h,m] + 1.0) * where(m > n, S, -inf)", "(l[h,m] * l[h,m] + 1.0) * S  if m > n"),
        ("clamp_max(where(m > n, S, -inf), 9.0)", "clamp_max(S, 9.0)  if m > n"),
        ("clamp(where(m > n, S, -inf), -9.0, 9.0)", "clamp(where(m > n, S, -inf), -9.0, 9.0)"),
        ("min(S, where(m > n, inf, -inf))", "min(S, inf)  if m > n"),
        ("where(m > n, S, where(n < 4, g[h,n], -inf))", "where(m > n, S, where(n < 4, g[h,n], -inf))  if m > n or not m > n and n < 4"),
        ("where(m > n, S, -inf) * scale", "where(m > n, S, -inf) * scale  if m > n or scale <= 0.0"),
        ("where(m > n, S, -inf) / rate[h]", "where(m > n, S, -inf) / rate[h]  if m > n or rate[h] <= 0.0"),
        ("where(m > n, S, -inf) * g[h,n]", "where(m > n, S, -inf) * g[h,n]"),
        ("where(m > n, S, -inf) * -0.5", "where(m > n, S, -inf) * -0.5"),
        ("g[h,n] - where(m > n, S, -inf)", "g[h,n] - where(m > n, S, -inf)"),
        ("max(where(m > n, S, -inf), -9.0)", "max(where(m > n, S, -inf), -9.0)"),
        ("tanh(where(m > n, S, -inf))", "tanh(where(m > n, S, -inf))"),
        ("where(m > n, S, -10000.0)", "where(m > n, S, -10000.0)"),
    ],
)
def test_scores(text: str, expected: str) -> None:
    assert lifted(f"  x[h,m,n] = {text.replace('S', S)}\n{SOFTMAX}", "x") == expected.replace("S", S)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where(m > n, S, 0.0) * v[h,n,e]", "S * v[h,n,e]  if m > n"),
        ("where(m > n, 0.0, S) * v[h,n,e]", "S * v[h,n,e]  if not m > n"),
        ("to_float(m > n) * S * v[h,n,e]", "S * v[h,n,e]  if m > n"),
        ("exp(where(m > n, S, -inf) - l[h,m]) * v[h,n,e]", "exp(S - l[h,m]) * v[h,n,e]  if m > n"),
        ("where(m > n, tanh(S), 0.0) * exp(g[h,n]) * v[h,n,e]", "tanh(S) * exp(g[h,n]) * v[h,n,e]  if m > n"),
        ("sigmoid(where(m > n, S, -inf)) * v[h,n,e]", "sigmoid(S) * v[h,n,e]  if m > n"),
        ("(where(m > n, S, 0.0) + where(m > n, g[h,n], 0.0)) * v[h,n,e]", "(S + g[h,n]) * v[h,n,e]  if m > n"),
        ("clamp(where(m > n, S, 0.0), -1.0, 1.0) * v[h,n,e]", "clamp(S, -1.0, 1.0) * v[h,n,e]  if m > n"),
        ("clamp(where(m > n, S, 0.0), 0.5, 1.0) * v[h,n,e]", "clamp(where(m > n, S, 0.0), 0.5, 1.0) * v[h,n,e]"),
        ("v[h,n,e] / where(m > n, exp(S), inf)", "v[h,n,e] / exp(S)  if m > n"),
        ("where(pad[m, n], S, 0.0) * v[h,n,e]", "S * v[h,n,e]  if pad[m,n]"),
        ("where(m > n, S, 1.0) * v[h,n,e]", "where(m > n, S, 1.0) * v[h,n,e]"),
        ("(where(m > n, S, 0.0) + g[h,n]) * v[h,n,e]", "(where(m > n, S, 0.0) + g[h,n]) * v[h,n,e]"),
        ("(sigmoid(where(m > n, S, -inf)) - 0.5) * v[h,n,e]", "(sigmoid(where(m > n, S, -inf)) - 0.5) * v[h,n,e]"),
        ("where(S > 0.0, S, 0.0) * v[h,n,e]", "where(S > 0.0, S, 0.0) * v[h,n,e]"),
        ("where(random_bits(1, 2, m, n) > 9, S, 0.0) * v[h,n,e]", "where(random_bits(1, 2, m, n) > 9, S, 0.0) * v[h,n,e]"),
    ],
)
def test_weights(text: str, expected: str) -> None:
    assert lifted(f"  o[h,m,e] = sum[n] {text.replace('S', S)}\n  -> o", "o") == expected.replace("S", S)


def test_a_score_that_some_sum_would_count_stays_a_number() -> None:
    text = "  x[h,m,n] = where(m > n, s[h,m,n], -inf)\n"
    also = "  t[h,m,e] = sum[n] tanh(x[h,m,n]) * v[h,n,e]\n"
    both = text + also + SOFTMAX.replace("-> o", "-> o, t")
    assert lifted(both, "x") == "where(m > n, s[h,m,n], -inf)"
    cascade = lift_masks(parse(HEAD + SCORES + both))
    assert [(step.name, why) for step, why in unlifted_masks(cascade)] == [("x", "a reduction that reads it depends on masked elements")]


def test_a_sum_over_features_is_a_score_itself() -> None:
    text = "  y[h,m,n,d] = where(m > n, q[h,m,d] + k[h,n,d], -inf)\n  x[h,m,n] = sum[d] y[h,m,n,d]\n"
    assert lifted(text + SOFTMAX, "y") == "where(m > n, q[h,m,d] + k[h,n,d], -inf)"


def test_an_output_of_minus_infinity_stays() -> None:
    text = "  r[h,m,e] = where(m > 3, o[h,m,e], -inf)\n  -> r"
    assert lifted("  x[h,m,n] = s[h,m,n]\n" + SOFTMAX.replace("  -> o", text), "r") == "where(m > 3, o[h,m,e], -inf)"


def test_weights_whose_sum_is_elsewhere_keep_their_maximum() -> None:
    """A mask of values only would leave all tiles to visit, and ask for a second running maximum."""
    text = "  x[h,m,n] = s[h,m,n]\n  w[h,n,e] = where(n < 5, v[h,n,e], 0.0)\n" + SOFTMAX.replace("v[h,n,e]", "w[h,n,e]")
    assert lifted(text, "o") == "p[h,m,n] * w[h,n,e]"
    cascade = lift_masks(parse(HEAD + SCORES + text))
    assert all(step.where is None for step in cascade.steps)


def test_finished_weights_are_masked_by_their_sum() -> None:
    text = "  x[h,m,n] = s[h,m,n]\n" + SOFTMAX.replace("sum[n] p[h,m,n]", "sum[n] where(m > n, p[h,m,n], 0.0)")
    assert lifted(text, "o") == "p[h,m,n] * v[h,n,e]  if m > n"


def test_lifting_is_done_once() -> None:
    cascade = parse(HEAD + SCORES + f"  x[h,m,n] = where(m > n, {S}, -inf) * scale\n{SOFTMAX}")
    once = lift_masks(cascade)
    assert lift_masks(once) == once


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("where(m > n, S, -inf) * g[h,n]", "the sign of a factor is unknown"),
        ("tanh(where(m > n, S, -inf))", "tanh of -inf is finite"),
        ("max(where(m > n, S, -inf), -9.0)", "max does not preserve -inf"),
        ("where(m > n, S, -10000.0)", "a finite number is no mask"),
    ],
)
def test_what_stays_is_told_with_the_reason(text: str, why: str) -> None:
    cascade = lift_masks(parse(HEAD + SCORES + f"  x[h,m,n] = {text.replace('S', S)}\n{SOFTMAX}"))
    ((step, reason),) = unlifted_masks(cascade)
    assert step.name == "x" and reason.startswith(why)


def test_nothing_is_told_of_masks_that_are_predicates() -> None:
    for text in ("where(m > n, S, -inf)", "where(m > n, S, -inf) * scale"):
        assert unlifted_masks(lift_masks(parse(HEAD + SCORES + f"  x[h,m,n] = {text.replace('S', S)}\n{SOFTMAX}"))) == ()

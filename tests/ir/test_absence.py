"""Where a value is one known number: claims are held against values, element by element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from attngen.ir.absence import FILLS, Absence, Known, absence
from attngen.ir.build import FALSE
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Expr
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr

HEAD = "cascade(s[m,n], t[m,n], c[m]; scale: float[], w: int)"
LENGTHS = {"m": 4, "n": 5}
HIDDEN = "where(m >= n, s[m,n], -inf)"
ABOVE = "where(m >= n, s[m,n], inf)"
ZEROED = "where(m >= n, s[m,n], 0.0)"


def expression(text: str) -> Expr:
    return parse(f"{HEAD}\n  x[m,n] = {text}\n  -> x").steps[0].body


def found(text: str) -> Absence:
    return absence(expression(text), Known({}, {}, frozenset("mn"), frozenset({"scale", "w"})))


def shown(predicate: Expr | None) -> str:
    return "anywhere" if predicate is None else "nowhere" if predicate == FALSE else print_expr(predicate)


VALUES = [
    ZEROED,
    HIDDEN,
    ABOVE,
    f"exp({HIDDEN})",
    f"exp({HIDDEN} - c[m])",
    f"exp2({HIDDEN} * extent(n) ** -0.5)",
    f"sigmoid({HIDDEN}) * t[m,n]",
    f"relu({HIDDEN})",
    f"softplus({HIDDEN})",
    f"-{HIDDEN}",
    f"-({HIDDEN} * -2.0)",
    f"{ZEROED} + where(n < w, t[m,n], 0.0)",
    f"{HIDDEN} + where(n < w, t[m,n], -inf)",
    f"{HIDDEN} - {ABOVE}",
    f"max({HIDDEN}, where(n < w, t[m,n], -inf))",
    f"min({HIDDEN}, where(n < w, t[m,n], -inf))",
    f"min({ZEROED}, where(n < w, t[m,n], 0.0))",
    f"logaddexp({HIDDEN}, where(n < w, t[m,n], -inf))",
    f"tanh({ZEROED}) * t[m,n]",
    f"log(exp({HIDDEN}))",
    f"abs({HIDDEN})",
    f"sqrt(abs({ZEROED}))",
    f"clamp({ZEROED}, -1.0, 2.0)",
    f"clamp({ZEROED}, 1.0, 2.0)",
    f"clamp({HIDDEN}, -1.0, 2.0)",
    f"where(n < w, {HIDDEN}, 0.0)",
    f"where(n < w, {ZEROED}, {ZEROED} * t[m,n])",
    f"safe_div({ZEROED}, t[m,n])",
    f"safe_div(t[m,n], {ZEROED})",
    f"{ZEROED} / (1.0 + t[m,n] * t[m,n])",
    "to_float(m >= n) * t[m,n]",
    f"{HIDDEN} * scale",
    f"gelu({ZEROED})",
    f"float16({HIDDEN})",
    f"cos({ZEROED})",
    f"exp({ZEROED})",
    "t[m,n]",
    "-inf",
    "0.0",
]


@pytest.mark.parametrize("text", VALUES)
def test_claims_hold(text: str) -> None:
    """Outside of the predicate of a fill, the value is that fill."""
    claims = found(text)
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=[LENGTHS[axis] for axis in axes]) for name, axes in (("s", "mn"), ("t", "mn"), ("c", "m"))}
    steps = [Einsum("x", ("m", "n"), expression(text))]
    kept = [fill for fill in FILLS if getattr(claims, fill) is not None]
    steps += [Einsum(f"{fill}_may_not", ("m", "n"), expression("1.0"), where=getattr(claims, fill)) for fill in kept]
    cascade = Cascade(parse(f"{HEAD}\n  x[m,n] = s[m,n]\n  -> x").inputs, tuple(steps), tuple(step.name for step in steps))
    for scale, w in itertools.product((-1.5, 0.5), (0, 3)):
        with np.errstate(all="ignore"):
            values = interpret(cascade, {**drawn, "scale": np.array(scale), "w": w})
        for fill in kept:
            outside = np.broadcast_to(values[f"{fill}_may_not"], values["x"].shape) != 1.0
            inside = values["x"][outside]
            is_fill = {"zero": inside == 0, "low": inside == -np.inf, "high": inside == np.inf, "broken": ~np.isfinite(inside)}[fill]
            assert is_fill.all(), (fill, scale, w)


@pytest.mark.parametrize(
    ("text", "fill", "predicate"),
    [
        (f"exp({HIDDEN} - c[m])", "zero", "m >= n"),
        (f"{HIDDEN} * extent(n) ** -0.5", "low", "m >= n"),
        (f"{HIDDEN} * -1.0", "high", "m >= n"),
        (f"{HIDDEN} * scale", "low", "m >= n or scale <= 0.0"),
        (f"{HIDDEN} * c[m]", "low", "anywhere"),
        (f"{ZEROED} + where(n < w, t[m,n], 0.0)", "zero", "m >= n or n < w"),
        (f"{ZEROED} * where(n < w, t[m,n], 0.0)", "zero", "m >= n and n < w"),
        (f"{HIDDEN} + t[m,n]", "low", "m >= n"),
        (f"sigmoid({HIDDEN})", "zero", "m >= n"),
        (f"sigmoid({ZEROED})", "zero", "anywhere"),
        (f"where(n < w, {ZEROED}, 0.0)", "zero", "n < w and m >= n"),
        ("-inf", "low", "nowhere"),
        (f"cos({ZEROED})", "zero", "anywhere"),
        (f"log({ZEROED})", "low", "m >= n"),
    ],
)
def test_what_masks_mean_in_any_spelling(text: str, fill: str, predicate: str) -> None:
    assert shown(getattr(found(text), fill)) == predicate


def test_what_is_missing_may_be_anything() -> None:
    mask = parse(f"{HEAD}\n  x[m,n] = s[m,n]  if n < w\n  -> x").steps[0].where
    assert shown(found(ZEROED).within(mask).zero) == "n < w and m >= n"
    assert shown(Absence().within(mask).zero) == "n < w"
    assert found(ZEROED).within(None) == found(ZEROED)


def test_earlier_steps_are_known_at_their_own_axes() -> None:
    steps = parse(f"{HEAD}\n  p[m,n] = {ZEROED}\n  x[m,n] = p[m,n] * t[m,n]\n  y[m,n] = p[m,n - 1] * t[m,n]\n  -> x, y").steps
    own = next(node for node in (steps[1].body.args) if "p" in print_expr(node))  # type: ignore[union-attr]
    known = Known({own: absence(steps[0].body, Known({}, {}))}, {})  # type: ignore[dict-item]
    assert shown(absence(steps[1].body, known).zero) == "m >= n"
    assert shown(absence(steps[2].body, known).zero) == "anywhere"

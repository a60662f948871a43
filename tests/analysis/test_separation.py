"""Reduction bodies over c, d, v, ... along n, with running row values r, s, ...: ranks, refusals, and the separated form at points."""

from __future__ import annotations

import numpy as np
import pytest

from attngen.analysis.separation import Symbols, Term, separate
from attngen.errors import NotStreamable
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Expr
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes
from attngen.source import SourceLoc

STREAMED = ("a", "b", "c", "dp", "g", "t", "v", "w", "y")
RUNNING = ("A", "B", "D", "l", "mu", "r", "s", "tau")
KNOWN = ("L", "scale")
HEAD = ", ".join([*(f"{name}[m,n]" for name in STREAMED), *(f"{name}[m]" for name in (*RUNNING, *KNOWN))])


def expression(text: str) -> Expr:
    for name in (*STREAMED, *RUNNING, *KNOWN):
        text = f"{text} ".replace(f"{name}.", f"{name}[m,n]" if name in STREAMED else f"{name}[m]").strip()
    return parse(f"cascade({HEAD})\n  o[m] = sum[n] {text}\n  -> o").steps[0].body


def separated(text: str, stands_alone: tuple[str, ...] = ()) -> tuple[Term, ...]:
    symbols = Symbols(lambda name: name in RUNNING, lambda expr: "n" in free_axes(expr), lambda name: name in stands_alone)
    return separate(expression(text), symbols)


# What exp(c - r) becomes once its shift is known by a gauge: w = exp(c - m), norm l; y = c - m.
RANKS = {
    "softmax weights": ("w. / l.", 1),
    "softmax output": ("w. / l. * v.", 1),
    "retention": ("c. * v. / max(abs(s.), 1.0)", 1),
    "relu over sum": ("relu(c.) * v. / l.", 1),
    "sigmoid": ("sigmoid(c.) * v.", 1),
    "known shift": ("exp(c. - L.) * v. / l.", 1),
    "entropy": ("-(w. / l. * (y. - log(l.)))", 2),
    "one-pass dq": ("w. / l. * (dp. - D.) * g.", 2),
    "tangent": ("w. / l. * (t. - mu.) * v.", 2),
    "differential": ("(w. / l. - scale. * (g. / s.)) * v.", 2),
    "variance": ("(c. - r.) ** 2", 3),
    "weighted variance": ("w. / l. * (t. - mu.) * (t. - mu.)", 3),
    "double backward": ("w. / l. * (a. - A.) * (b. - B.) * v.", 4),
    "fourth moment": ("(c. - r.) ** 4", 5),
}

REFUSED = {
    "tanh of a shift": ("v. * tanh(c. - r.)", "tanh(c[m,n] - r[m])"),
    "gaussian of a running mean": ("exp(-((c. - r.) ** 2) / 2.0) * v.", "exp(-(c[m,n] - r[m]) ** 2 / 2.0)"),
    "entmax": ("relu(c. - tau.) ** 2", "relu(c[m,n] - tau[m])"),
    "running temperature": ("exp(c. / r.)", "exp(c[m,n] / r[m])"),
    # Rank 2 through the addition theorem, which is out of scope: pass the rotation in instead.
    "rotation": ("cos(c. - r.) * v.", "cos(c[m,n] - r[m])"),
    "square root": ("(c. - r.) ** 0.5", "(c[m,n] - r[m]) ** 0.5"),
    "quotient": ("v. / (c. + r.)", "v[m,n] / (c[m,n] + r[m])"),
    "choice": ("where(c. > r., v., 0.0)", "where(c[m,n] > r[m], v[m,n], 0.0)"),
}


@pytest.mark.parametrize("name", RANKS)
def test_rank(name: str) -> None:
    text, rank = RANKS[name]
    assert len(separated(text)) == rank


@pytest.mark.parametrize("name", RANKS)
def test_no_term_mixes(name: str) -> None:
    for term in separated(RANKS[name][0]):
        assert "n" not in free_axes(term.running)
        assert not any(read in print_expr(term.streamed) for read in (f"{name}[m]" for name in RUNNING))


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("name", RANKS)
def test_terms_add_up(name: str, size: float, offset: float) -> None:
    """Relative to the terms themselves: raw moments of values with a large offset cancel, and say so here."""
    text, _ = RANKS[name]
    terms = separated(text)
    rng = np.random.default_rng(1)
    values = {item: rng.normal(size=(3, 50)) * size for item in STREAMED} | {item: rng.uniform(0.5, 2.0, 3) for item in (*RUNNING, *KNOWN)}
    values["c"] = values["c"] + offset
    values["L"] = values["c"].max(axis=1)
    values["r"] = values["r"] + offset
    inputs = tuple(Input(item, ("m", "n") if item in STREAMED else ("m",), np.ndim(array)) for item, array in values.items())
    bodies = [expression(text), *(part for term in terms for part in (term.streamed, term.running))]
    steps = tuple(Einsum(f"e{i}", ("m", "n"), body) for i, body in enumerate(bodies))
    whole, *parts = interpret(Cascade(inputs, steps, ("e0",)), values).values()
    products = [g * h for g, h in zip(parts[::2], parts[1::2], strict=True)]
    scale = np.maximum(sum(np.abs(product) for product in products), 1e-300)
    assert np.isfinite(whole).all()
    assert (np.abs(sum(products) - whole) <= 1e-12 * scale).all()


@pytest.mark.parametrize("name", REFUSED)
def test_a_mixed_factor_is_named(name: str) -> None:
    text, factor = REFUSED[name]
    symbols = Symbols(lambda name: name in RUNNING, lambda expr: "n" in free_axes(expr))
    loc = SourceLoc("variant.py", 7, "weights")
    with pytest.raises(NotStreamable) as caught:
        separate(expression(text), symbols, loc)
    assert factor in str(caught.value)
    assert caught.value.loc == loc


def test_a_known_shift_is_never_torn_apart() -> None:
    (term,) = separated("exp(c. - L.) * v. * r.")
    assert print_expr(term.streamed) == "exp(c[m,n] - L[m]) * v[m,n]"
    assert print_expr(term.running) == "r[m]"


def test_followers_of_a_gauge_become_factors() -> None:
    """`y + a` moves with its gauge, so y may not hide inside of a sum."""
    assert len(separated("w. * (y. + a.) / l.")) == 1
    followed = separated("w. * (y. + a.) / l.", ("w", "y"))
    assert {print_expr(term.streamed) for term in followed} == {"w[m,n] * y[m,n]", "w[m,n] * a[m,n]"}


def test_a_zero_body_has_no_terms() -> None:
    assert separated("c. * r. - r. * c.") == ()


def test_the_result_does_not_depend_on_history() -> None:
    first = [separated(RANKS[name][0]) for name in RANKS]
    assert first == [separated(RANKS[name][0]) for name in reversed(RANKS)][::-1]


def test_rewritten_factors_are_reported_as_the_user_wrote_them() -> None:
    rewritten, own = expression("tanh(y. - log(l.))"), expression("tanh(c. - r.)")
    symbols = Symbols(lambda name: name in RUNNING, lambda expr: "n" in free_axes(expr), spelled={rewritten: own})
    with pytest.raises(NotStreamable, match=r"tanh\(c\[m,n\] - r\[m\]\)"):
        separate(rewritten, symbols)

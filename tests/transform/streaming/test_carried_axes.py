from __future__ import annotations

import pytest

from attngen.interpreter.torch_reference import reference
from attngen.ir.cascade import Cascade
from attngen.ir.parser import parse
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.carried_axes import broadcast_over_grid, inline_grid_steps, split_maxima
from tests import variants
from tests.kernel.computed import close, drawn
from tests.transform import more_variants

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}
GRIDS = {True: ("b", "g", "r"), False: ("b", "h")}


def text(cascade: Cascade) -> list[str]:
    return [str(step) for step in cascade.steps]


def assert_same(before: Cascade, after: Cascade) -> None:
    """The same outputs with the same axes."""
    values = drawn(before.inputs)
    truth, found = reference(before, values), reference(after, values)
    assert after.outputs == before.outputs
    names = [name for name in before.outputs if name in truth]
    assert [after.axes(name) for name in names] == [before.axes(name) for name in names]
    close({name: found[name] for name in names}, {name: truth[name] for name in names}, 1e-12)


@pytest.mark.parametrize("name", TEXTS)
def test_results_are_the_same(name: str) -> None:
    before = canonicalize(parse(TEXTS[name]))
    grid = GRIDS["[b,g,r,m" in TEXTS[name]]
    assert_same(before, split_maxima(before, "n")[0])
    assert_same(before, inline_grid_steps(before, {"m", "n"}))
    after = broadcast_over_grid(before, "m", "n", grid)
    assert_same(before, after)
    narrow = [
        step.name for step in after.steps if "n" in step.over and not {"m", *grid} <= set(step.axes) and step.name not in after.outputs
    ]
    assert not narrow or after == before


def test_statistics_take_on_the_axes_of_the_grid() -> None:
    """A maximum of keys alone is carried by every program, and so is what it is of."""
    cascade = parse("""cascade(q[b,h,m,d], k[b,h,n,d], t[b,n])
  lse[b] = logsumexp[n] t[b,n]
  p[b,n] = exp(t[b,n] - lse[b])
  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
  o[b,h,m] = sum[n] p[b,n] * s[b,h,m,n]
  -> o""")
    after = broadcast_over_grid(cascade, "m", "n", ("b", "h"))
    assert text(after)[:3] == [
        "x[b,h,m,n] = t[b,n]",
        "lse[b,h,m] = logsumexp[n] x[b,h,m,n]",
        "p[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m])",
    ]
    assert_same(cascade, after)


def test_a_result_stays_as_it_is_and_is_computed_once_more() -> None:
    cascade = parse("""cascade(q[b,h,m,d], k[b,h,n,d], t[b,n])
  l[b] = sum[n] t[b,n]
  s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
  o[b,h,m] = sum[n] s[b,h,m,n] * l[b]
  -> o, l""")
    after = broadcast_over_grid(cascade, "m", "n", ("b", "h"))
    assert "l[b] = sum[n] t[b,n]" in text(after)
    assert "l2[b,h,m] = sum[n] t[b,n]" in text(after)
    assert_same(cascade, after)


def test_a_maximum_that_is_a_shift_and_a_result_becomes_two() -> None:
    cascade = parse("""cascade(s[m,n])
  top[m] = max[n] s[m,n]
  w[m,n] = exp(s[m,n] - top[m])
  l[m] = sum[n] w[m,n]
  -> l, top""")
    after, values = split_maxima(cascade, "n")
    assert text(after)[:3] == ["top[m] = max[n] s[m,n]", "top2[m] = max[n] s[m,n]", "w[m,n] = exp(s[m,n] - top2[m])"]
    assert values == {"top"}
    alone, values = split_maxima(parse("cascade(s[m,n])\n  top[m] = max[n] s[m,n]\n  y[m] = top[m] * 2.0\n  -> y"), "n")
    assert (len(alone.steps), values) == (2, {"top"})
    shift, values = split_maxima(Cascade(cascade.inputs, cascade.steps, ("l",)), "n")
    assert (text(shift), values) == (text(cascade), frozenset())


def test_values_along_the_grid_move_into_what_reads_them() -> None:
    cascade = parse("""cascade(s[b,m,n], lam[b])
  rate[b] = exp(lam[b]) * 2.0
  x[b,m,n] = s[b,m,n] * rate[b]
  o[b,m] = sum[n] x[b,m,n] + rate[b]
  -> o""")
    assert text(inline_grid_steps(cascade, {"m", "n"})) == [
        "x[b,m,n] = s[b,m,n] * (exp(lam[b]) * 2.0)",
        "o[b,m] = sum[n] x[b,m,n] + exp(lam[b]) * 2.0",
    ]
    kept = Cascade(cascade.inputs, cascade.steps, ("o", "rate"))
    assert inline_grid_steps(kept, {"m", "n"}) == kept

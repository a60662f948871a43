from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attngen.ir.expr import Expr
from attngen.ir.parser import parse
from attngen.kernel.kernel import Kernel
from attngen.kernel.rewrites.augmented_columns import with_row_terms
from attngen.transform.streaming.gauges import Gauge
from tests.kernel.computed import close, computed, drawn

BACKWARD = """cascade(q[m,d], k[n,d], lse[m], bias[m], far[m,n])
  s[m,n] = sum[d] q[m,d] * k[n,d]
  z[m,n] = s[m,n] + 2.0 * extent(n)
  x[m,n] = z[m,n] * 0.5
  row[m] = 3.0 * bias[m] - extent(n) * 0.25
  w[m,n] = exp(x[m,n] - (lse[m] - row[m]))
  l[m] = sum[n] w[m,n]
  -> l"""


def kernel(text: str = BACKWARD) -> Kernel:
    cascade = parse(text)
    return Kernel("backward_rows", "m", "n", (), (), ("d",), cascade.inputs, cascade.steps, cascade.outputs)


def stays(*names: str) -> Callable[[Expr], bool]:
    """Everything but what reads one of these."""
    return lambda expr: not any(f"'{name}'" in repr(expr) for name in names)


def text(found: Kernel) -> list[str]:
    return [str(step) for step in found.steps]


def assert_same(before: Kernel, after: Kernel) -> None:
    values = drawn(before.inputs)
    close(computed(after, values), computed(before, values))


def test_terms_of_rows_move_to_the_columns() -> None:
    """Divided by the scale of the exponent; the row value that nobody reads any more is gone."""
    before = kernel()
    after = with_row_terms(before, "z", stays("lse"))
    assert_same(before, after)
    assert text(after)[1:] == [
        "z[m,n] = s[m,n] + 2.0 * extent(n) + 3.0 * bias[m] * 2.0 - extent(n) * 0.25 * 2.0",
        "x[m,n] = z[m,n] * 0.5",
        "w[m,n] = exp(x[m,n] - lse[m])",
        "l[m] = sum[n] w[m,n]",
    ]


def test_a_term_that_changes_stays_behind() -> None:
    before = kernel()
    after = with_row_terms(before, "z", stays("lse", "bias"))
    assert_same(before, after)
    assert "bias[m]" in text(after)[-2] and "bias[m]" not in text(after)[1]


def test_nothing_moves_if_all_or_none_can() -> None:
    before = kernel()
    assert with_row_terms(before, "z", stays()) is before
    assert with_row_terms(before, "z", lambda expr: False) is before


def test_an_exponent_that_others_need_keeps_its_value() -> None:
    for line in ("y[m] = sum[n] x[m,n] * w[m,n]", "y[m] = sum[n] z[m,n]"):
        before = kernel(BACKWARD.replace("  -> l", f"  {line}\n  -> l, y"))
        assert with_row_terms(before, "z", stays("lse")) is before


def test_running_maxima_are_measured_from_the_whole() -> None:
    before = kernel()
    gauge = Gauge("m_i", "x", "w", None, "l", before.steps[0].body, ())
    assert with_row_terms(replace(before, gauges=(gauge,)), "z", stays("lse")).steps == before.steps

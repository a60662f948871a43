"""How sums follow a gauge that moves: the law that kernels rescale their accumulators by."""

from __future__ import annotations

import math

import pytest
import torch

from attngen.errors import MaxNotAShift, NotStreamable
from attngen.interpreter.torch_reference import reference
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Read
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.gauges import Sums, at_own_axes
from attngen.transform.streaming.streaming import Streamed, streaming
from tests import variants
from tests.transform import more_variants
from tests.transform.laws import AT, gauges_at

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}


def form(name: str) -> Streamed:
    return streaming(canonicalize(parse(TEXTS[name])), "m", "n")


@pytest.mark.parametrize("name", TEXTS)
def test_sums_follow_their_gauges(name: str) -> None:
    """A sum measured from m is `w**a * sum C(b, i) y**i * lower sums` of one measured from m0, with w = exp(m0 - m) and y = m0 - m."""
    streamed = form(name)
    values = AT.values(streamed.cascade)
    old, new = gauges_at(streamed, AT, 1), gauges_at(streamed, AT, 2)
    before, after = (reference(streamed.cascade, {**values, **gauges}) for gauges in (old, new))
    sums = {item.name: item for item in streamed.accumulators}
    gauge_axes = {gauge.name: streamed.cascade.axes(gauge.name) for gauge in streamed.gauges}

    def wide(gauge: str, sum_: str) -> torch.Tensor:
        axes, own = streamed.cascade.axes(sum_), gauge_axes[gauge]
        moved = (old[gauge] - new[gauge]).permute([own.index(axis) for axis in axes if axis in own])
        return moved.reshape([AT.length(axis) if axis in own else 1 for axis in axes])

    for item in sums.values():
        expected = before[item.name]
        for gauge, power in item.offset_power:
            lower = item.lower
            for i in range(1, power + 1):
                assert lower is not None
                expected = expected + math.comb(power, i) * wide(gauge, item.name) ** i * before[lower]
                lower = sums[lower].lower
        for gauge, power in item.weight_power:
            expected = expected * torch.exp(power * wide(gauge, item.name))
        torch.testing.assert_close(after[item.name], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", TEXTS)
def test_gauges_say_what_they_are(name: str) -> None:
    """The weight is exp(x - m), the offset x - m, the value m + log(norm)."""
    streamed = form(name)
    steps = {step.name: step for step in streamed.cascade.steps}
    for gauge in streamed.gauges:
        x, m = (build.read(item, streamed.cascade.axes(item)) for item in (gauge.exponent, gauge.name))
        assert steps[gauge.weight].body == build.exp(build.sub(x, m))
        if gauge.offset is not None:
            assert steps[gauge.offset].body == build.sub(x, m)
        assert gauge.value is not None
        assert steps[gauge.value].body == build.add(m, build.log(gauge.norm))


CASCADE = parse("""cascade(s[m,n], v[n,e], c[m])
  x[m,n] = s[m,n] * 2.0  if m >= n
  -> x""")
STEP = CASCADE.steps[0]


def sums() -> tuple[Sums, Einsum]:
    found = Sums(CASCADE, "n")
    found.add(STEP)
    return found, STEP


def steps(found: Sums) -> list[str]:
    return [str(step) for step in found.steps]


def test_one_exponent_under_one_mask_has_one_gauge() -> None:
    found, step = sums()
    x = found.read("x")
    gauge = found.gauge(x, step)
    assert found.gauge(x, step) is gauge
    assert found.gauge(x, Einsum("y", ("m", "n"), x)) is not gauge, "another mask"
    assert steps(found)[1] == "w[m,n] = exp(x[m,n] - m_i[m])  if m >= n"
    assert gauge.covers(step.where) and not gauge.covers(None)


def test_an_exponent_without_a_step_gets_one() -> None:
    found, step = sums()
    exponent = build.add(found.read("x"), build.read("c", ("m",)))
    gauge = found.gauge(exponent, Einsum("total", ("m",), build.exp(exponent), "sum", ("n",), step.where))
    assert steps(found)[1:] == ["x2[m,n] = x[m,n] + c[m]  if m >= n", "w[m,n] = exp(x2[m,n] - m_i[m])  if m >= n"]
    assert gauge.exponent == "x2"


def test_equal_sums_are_one() -> None:
    found, step = sums()
    gauge = found.gauge(found.read("x"), step)
    assert found.total(gauge) == found.total(gauge) == "l_i"
    assert found.shift_of(gauge) == found.shift_of(gauge) == "lse"
    assert steps(found)[2:] == ["l_i[m] = sum[n] w[m,n]  if m >= n", "lse[m] = m_i[m] + log(l_i[m])"]


def test_a_sum_with_offsets_has_those_with_fewer() -> None:
    found, step = sums()
    gauge = found.gauge(found.read("x"), step)
    y = found.offset(gauge)
    body = build.mul(found.read("w"), build.mul(y, y))
    found.accumulate("squares", body, Einsum("squares", ("m",), body, "sum", ("n",), step.where))
    item = found.accumulators["squares"]
    assert (item.weight_power, item.offset_power) == ((("m_i", 1),), (("m_i", 2),))
    chain = [item.lower, found.accumulators[item.lower or ""].lower]
    assert [dict(found.accumulators[name or ""].offset_power).get("m_i", 0) for name in chain] == [1, 0]


def test_a_sink_widens_the_norm() -> None:
    found, step = sums()
    gauge = found.gauge(found.read("x"), step)
    lse = found.shift_of(gauge)
    sink = build.read("c", ("m",))
    found.widen(Einsum("z", ("m",), build.apply("logaddexp", found.read(lse), sink)), lse, sink)
    assert steps(found)[-2:] == ["norm[m] = l_i[m] + exp(c[m] - m_i[m])", "z[m] = m_i[m] + log(norm[m])"]
    assert [print_expr(floor) for floor in gauge.floor] == ["c[m]"]
    assert found.shifts["z"] == (gauge, Read("norm", found.read("norm").at))


def test_sums_without_a_law_are_refused() -> None:
    found, step = sums()
    gauge = found.gauge(found.read("x"), step)
    with pytest.raises(MaxNotAShift, match="nonlinear"):
        found.sum("bad", build.apply("tanh", found.read(gauge.weight)), step)
    other = found.gauge(build.mul(found.read("x"), build.const(3.0)), step)
    both = build.mul(found.offset(gauge), found.offset(other))
    with pytest.raises(NotStreamable, match="logarithms of two different softmaxes"):
        found.sum("bad", both, step)


def test_what_waits_for_the_end_of_the_pass() -> None:
    found, step = sums()
    gauge = found.gauge(found.read("x"), step)
    total = found.total(gauge)
    assert found.is_running(total) and found.is_running(gauge.name)
    assert not found.is_running(gauge.weight) and not found.is_running("x")
    assert found.reads_running(found.read(total)) and not found.reads_running(found.read("x"))


def test_reads_at_their_own_axes() -> None:
    assert at_own_axes(build.read("q", ("m", "d")), ("m", "d"))
    assert not at_own_axes(build.read("q", ("m", "d")), ("d", "m"))

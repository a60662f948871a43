from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from attngen.errors import MalformedCascade
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Const, Expr, Index, Read
from attngen.ir.parser import parse
from attngen.ir.verify import CanonicalForm, Form, TracedForm, verify
from attngen.source import SourceLoc
from tests.cascades import cascades
from tests.variants import ALL

M, N = Index("m"), Index("n")
A = Read("a", (M, N))
GOOD = parse(
    "cascade(a[m,n], c[n]; t: float[:], i: int[:], w: int)\n  x[m,n] = a[m,n] * c[n]  if m >= n\n  y[m] = sum[n] x[m,n]  if m >= n\n  -> y"
)


def with_step(step: Einsum) -> Cascade:
    return replace(GOOD, steps=(*GOOD.steps, step), outputs=(step.name,))


def with_body(body: Expr) -> Cascade:
    return with_step(Einsum("z", ("m", "n"), body))


@given(cascades())
def test_random_cascades_are_traced_form(cascade: Cascade) -> None:
    assert verify(cascade, TracedForm) is cascade


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_variants_are_traced_form(text: str) -> None:
    verify(parse(text), TracedForm)


BROKEN_TRACED = {
    "defined twice": with_step(Einsum("x", ("m", "n"), A)),
    "step named like an input": with_step(Einsum("a", ("m", "n"), A)),
    "step named like an axis": with_step(Einsum("m", ("n",), Read("c", (N,)))),
    "not an identifier": with_step(Einsum("z z", ("m", "n"), A)),
    "reserved name": with_step(Einsum("inf", ("m", "n"), A)),
    "keyword": with_step(Einsum("lambda", ("m", "n"), A)),
    "reserved axis": replace(GOOD, inputs=(*GOOD.inputs, Input("z", ("last",), 1))),
    "rank and axes": replace(GOOD, inputs=(*GOOD.inputs, Input("z", ("m",), 2))),
    "argument with one axis twice": replace(GOOD, inputs=(*GOOD.inputs, Input("z", ("m", "m"), 2))),
    "number with axes": replace(GOOD, inputs=(*GOOD.inputs, Input("z", (), 0, "float", True))),
    "number of rank 1": replace(GOOD, inputs=(*GOOD.inputs, Input("z", None, 1, "int", True))),
    "unknown tensor": with_body(Read("nothing", (M,))),
    "reads itself": with_body(Read("z", (M, N))),
    "too few positions": with_body(Read("a", (M,))),
    "too many positions": with_body(Read("t", (M, N))),
    "capture without positions": with_body(Read("t", ())),
    "wrong kind of read": with_body(Read("i", (M,))),
    "float position": with_body(Read("t", (A,))),
    "bool position": with_body(Read("t", (Apply("lt", (M, N)),))),
    "no outputs": replace(GOOD, outputs=()),
    "unknown output": replace(GOOD, outputs=("nothing",)),
    "axis twice": with_step(Einsum("z", ("m", "m"), Read("y", (M,)))),
    "axis kept and reduced": with_step(Einsum("z", ("m", "n"), A, "sum", ("n",))),
    "reduced twice": with_step(Einsum("z", ("m",), A, "sum", ("n", "n"))),
    "reduction over nothing": with_step(Einsum("z", ("m", "n"), A, "sum", ())),
    "over without reduction": with_step(Einsum("z", ("m",), A, None, ("n",))),
    "unbound index": with_step(Einsum("z", ("m",), A)),
    "unbound index in the predicate": with_step(Einsum("z", ("m",), Read("y", (M,)), where=Apply("lt", (M, N)))),
    "unbound index in a position": with_step(Einsum("z", ("m",), Read("t", (N,)))),
    "reduced axis missing": with_step(Einsum("z", ("m",), Read("y", (M,)), "sum", ("n",))),
    "predicate not bool": with_step(Einsum("z", ("m", "n"), A, where=M)),
    "logic on numbers": with_step(Einsum("z", ("m", "n"), A, where=Apply("and", (M, Apply("lt", (M, N)))))),
    "not of a number": with_step(Einsum("z", ("m", "n"), A, where=Apply("not", (M,)))),
    "condition not bool": with_body(Apply("where", (M, A, A))),
    "bits of floats": with_body(Apply("bitand", (A, M))),
    "sum of truth": with_step(Einsum("z", ("m",), Apply("lt", (M, N)), "sum", ("n",))),
    "max of integers": with_step(Einsum("z", ("m",), Apply("add", (M, N)), "max", ("n",))),
    "logsumexp of integers": with_step(Einsum("z", ("m",), Apply("add", (M, N)), "logsumexp", ("n",))),
}
BROKEN_TRACED["extent of no axis"] = parse("cascade(a[m,n])\n  z[m,n] = a[m,n] * to_float(extent(q))\n  -> z")

BROKEN_CANONICAL = {
    "dead step": with_step(Einsum("z", ("m", "n"), A)),
    "mask in the body": with_body(Apply("where", (Apply("lt", (M, N)), A, build.NEG_INF))),
    "mask in the first branch": with_body(Apply("where", (Apply("lt", (M, N)), build.NEG_INF, A))),
    "mask added": with_body(Apply("add", (A, Apply("where", (Apply("lt", (M, N)), build.ZERO, build.NEG_INF))))),
    "mask shifted": with_body(Apply("sub", (Apply("where", (Apply("lt", (M, N)), A, build.NEG_INF)), A))),
    "mask not inherited": with_step(Einsum("z", ("m",), Read("x", (M, N)), "sum", ("n",))),
    "mask inherited in part": with_step(Einsum("z", ("m", "n"), Read("x", (M, N)), where=Apply("lt", (M, Const(3, "int"))))),
}


def test_good() -> None:
    verify(GOOD, TracedForm)
    verify(GOOD, CanonicalForm)


@pytest.mark.parametrize("cascade", BROKEN_TRACED.values(), ids=BROKEN_TRACED.keys())
@pytest.mark.parametrize("form", [TracedForm, CanonicalForm])
def test_each_rule_of_traced_form_is_checked(cascade: Cascade, form: type[Form]) -> None:
    with pytest.raises(MalformedCascade):
        verify(cascade, form)


@pytest.mark.parametrize("cascade", BROKEN_CANONICAL.values(), ids=BROKEN_CANONICAL.keys())
def test_each_rule_of_canonical_form_is_checked(cascade: Cascade) -> None:
    verify(cascade, TracedForm)
    with pytest.raises(MalformedCascade):
        verify(cascade, CanonicalForm)


def test_a_body_may_lack_an_axis_of_its_step() -> None:
    verify(with_step(Einsum("z", ("m", "n"), Read("y", (M,)))), TracedForm)


def test_an_axis_may_be_reduced_over_in_the_predicate_alone() -> None:
    verify(with_step(Einsum("z", ("m",), build.ONE, "sum", ("n",), Apply("lt", (M, N)))), TracedForm)


def test_the_error_shows_the_users_line() -> None:
    loc = SourceLoc(__file__, 3, "mod")
    with pytest.raises(MalformedCascade) as caught:
        verify(with_step(Einsum("z", ("m",), A, loc=loc)), TracedForm)
    assert caught.value.loc is loc
    assert "z[m] = a[m,n]" in str(caught.value)

from __future__ import annotations

import pytest

from attngen.analysis.axis_roles import Roles, roles
from attngen.errors import AxisError, UnsupportedError
from attngen.ir.parser import parse
from tests.variants import ALL, DIFFERENTIAL


@pytest.mark.parametrize("name", sorted(set(ALL) - {"differential"}))
def test_roles_of_grouped_heads(name: str) -> None:
    assert roles(parse(ALL[name])) == Roles("m", "n", ("d", "e"), ("b", "g", "r"))


def test_roles_of_differential() -> None:
    assert roles(parse(DIFFERENTIAL)) == Roles("m", "n", ("d", "e"), ("b", "h"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cascade(q[m,d], k[n,d])\n  s[m,n] = sum[d] q[m,d] * k[n,d]\n  y[m] = sum[n] s[m,n]\n  -> y", Roles("m", "n", ("d",), ())),
        ("cascade(k[n,d], q[m,d])\n  s[n,m] = sum[d] q[m,d] * k[n,d]\n  y[m] = sum[n] s[n,m]\n  -> y", Roles("m", "n", ("d",), ())),
        ("cascade(q[m,d], k[n,d])\n  s[m,n] = sum[d] q[m,d] * k[n,d]\n  y[n] = sum[m] s[m,n]\n  -> y", Roles("n", "m", ("d",), ())),
        (
            "cascade(q[h,m,d], k[h,n,d], w[h,d], bias[h,m,n], gate[h,m], lam[h])\n"
            "  s[h,m,n] = sum[d] q[h,m,d] * k[h,n,d] * w[h,d] + bias[h,m,n]\n"
            "  y[h,m] = sum[n] s[h,m,n] * gate[h,m] * lam[h]\n  -> y",
            Roles("m", "n", ("d",), ("h",)),
        ),
        (
            "cascade(q[m,d], k[n,d]; u: float[:, :], t: float[:, :])\n  f[m,n] = sum[z] u[m,z] * t[n,z]\n"
            "  s[m,n] = sum[d] q[m,d] * k[n,d]\n  y[m] = sum[n] s[m,n] * f[m,n]\n  -> y",
            Roles("m", "n", ("d", "z"), ()),
        ),
        (
            "cascade(q[m,d], k[n,d])\n  s[m,n] = sum[d] q[m,d] * k[n,d]\n  l[m] = sum[n] 1.0  if m >= n\n  -> l",
            Roles("m", "n", ("d",), ()),
        ),
    ],
    ids=["no grid", "keys first", "columns", "per-head and row inputs", "captured rows", "predicate alone"],
)
def test_roles_follow_from_the_structure(text: str, expected: Roles) -> None:
    assert roles(parse(text)) == expected


HEAD = "cascade(q[b,m,d], k[b,n,d])\n  s[b,m,n] = sum[d] q[b,m,d] * k[b,n,d]\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (HEAD + "  x[b,m,n] = exp(s[b,m,n])\n  y[b,m] = sum[n] x[b,m,n]\n  -> y, x", UnsupportedError),
        (HEAD + "  y[b,m] = sum[n] s[b,m,n]\n  z[b,n] = sum[m] s[b,m,n]\n  -> y, z", UnsupportedError),
        (HEAD + "  -> s", AxisError),
        ("cascade(q[m,d], k[n,d], t[l,d])\n  y[m] = sum[n,l,d] q[m,d] * k[n,d] * t[l,d]\n  -> y", UnsupportedError),
        ("cascade(q[m,d])\n  y[m] = sum[d] q[m,d]\n  -> y", AxisError),
        ("cascade(q[m,d], k[n,d])\n  y[m,d] = q[m,d]\n  z[d] = sum[n] k[n,d]\n  -> y, z", AxisError),
        ("cascade(t[b])\n  y[b] = t[b]\n  -> y", AxisError),
    ],
    ids=["streamed output", "both reduced", "none reduced", "three sequences", "one sequence", "never meet", "no sequence"],
)
def test_what_has_no_roles(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        roles(parse(text))


BEFORE = "  t[b,h,m,n] = sum[j,d] q[b,j,m,d] * k[b,j,n,d] * mix[j,h]\n  z[b,h,m] = logsumexp[n] t[b,h,m,n]\n"
BEHIND = """  s[b,j,m,n] = sum[d] q[b,j,m,d] * k[b,j,n,d]
  lse[b,j,m] = logsumexp[n] s[b,j,m,n]
  t[b,h,m,n] = sum[j] exp(s[b,j,m,n] - lse[b,j,m]) * mix[j,h]
  z[b,h,m] = sum[n] t[b,h,m,n]
"""


@pytest.mark.parametrize(("steps", "place"), [(BEFORE, "before the softmax"), (BEHIND, "after the softmax")])
def test_mixed_heads_are_refused_as_that(steps: str, place: str) -> None:
    with pytest.raises(UnsupportedError, match=f"heads are mixed {place}.*'j'"):
        roles(parse(f"cascade(q[b,j,m,d], k[b,j,n,d], mix[j,h])\n{steps}  -> z"))

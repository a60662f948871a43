from __future__ import annotations

import pytest
from hypothesis import given

from attngen.errors import ParseError
from attngen.ir import build
from attngen.ir.cascade import Cascade
from attngen.ir.expr import Extent, Index, Offset, Read, Start
from attngen.ir.parser import parse, parse_expr
from attngen.ir.printer import print_expr
from tests.cascades import cascades
from tests.variants import ALL


@given(cascades())
def test_parse_reads_back_what_print_wrote(cascade: Cascade) -> None:
    assert parse(str(cascade)) == cascade


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_print_gives_the_text_back(text: str) -> None:
    assert str(parse(text)) == text


def test_kinds_of_literals_stay_apart() -> None:
    step = parse("cascade(a[m])\n  y[m] = where(True, 1, 1.0) * a[m]\n  -> y").steps[0]
    assert step.body == build.Apply("mul", (build.Apply("where", tuple(map(build.const, (True, 1, 1.0)))), build.read("a", ("m",))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cascade(a[m])",
        "cascade(a[m])\n  y[m] = a[m]",
        "cascade(a[m])\n  y[m] : a[m]\n  -> y",
        "cascade(a[m])\n  y[m] = nothing[m]\n  -> y",
        "cascade(a[m])\n  y[m] = a[m] +\n  -> y",
        "cascade(a[m])\n  y[m] = a[m] if m else 0\n  -> y",
        "cascade(a[m])\n  y[m] = __import__('os')\n  -> y",
        "cascade(a[m])\n  y[m] = 'text'\n  -> y",
        "cascade(a[m])\n  y[m] = 0 < m < 2\n  -> y",
    ],
)
def test_what_is_no_cascade_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


def test_an_expression_alone() -> None:
    """Bare names are tensors that are known, and indices."""
    found = parse_expr("k[start(n) + offset(n)] + window - extent(n) * n", {"k": "int", "window": "int"})
    position = build.add(Start("n"), Offset("n"))
    length = build.mul(Extent("n"), Index("n"))
    assert found == build.sub(build.add(Read("k", (position,), "int"), build.read("window", (), "int")), length)
    assert print_expr(found) == "k[start(n) + offset(n)] + window - extent(n) * n"

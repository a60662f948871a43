"""Axis patterns are read, flattened and grouped again."""

from __future__ import annotations

import pytest

from attngen.errors import AxisError
from attngen.frontend import patterns


def test_read_and_flatten() -> None:
    pattern = patterns.parse("b (g r)  m d")
    assert pattern == (("b",), ("g", "r"), ("m",), ("d",))
    assert patterns.flat(pattern) == ("b", "g", "r", "m", "d")
    assert patterns.parse("") == ()


def test_axes_are_grouped_as_the_arguments_group_them() -> None:
    signature = [patterns.parse("b (g r) m d"), patterns.parse("b g n d")]
    assert patterns.grouped(("b", "g", "r", "m"), signature) == (("b",), ("g", "r"), ("m",))
    assert patterns.grouped(("b", "g", "m"), signature) == (("b",), ("g",), ("m",))
    assert patterns.grouped(("r", "g"), signature) == (("r",), ("g",))


@pytest.mark.parametrize("text", ["b b", "b (g b)", "b,m", "1b", "b (g", "b ()", "b -> m", "for", "é"])
def test_refused(text: str) -> None:
    with pytest.raises(AxisError):
        patterns.parse(text)

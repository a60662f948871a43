"""Statements of the plain kernel, divided among functions by what each needs."""

from __future__ import annotations

import pytest

from attngen.emit.gluon.warp_partitions import local_names, needed, target
from attngen.emit.identifiers import Code


@pytest.mark.parametrize(
    ("line", "name"), [("a = b + 1", "a"), ("a += b", "a"), ("a: gl.constexpr = b", "a"), ("a, b = c", ""), ("put(a, b)", "")]
)
def test_target(line: str, name: str):
    assert target(Code(line)) == name


def test_vectors_and_what_is_made_of_them_are_local_but_not_their_reductions():
    lines = map(Code, ("r = gl.arange(0, 8)", "o = r + base", "top = tl.max(o, 0)", "n = length // 2", "pair = (n, n)"))
    assert local_names(lines) == {"r", "o", "pair"}


def test_needed_statements_stand_in_their_order():
    lines = [Code(line) for line in ("a = 1", "b = a + 1", "c = 2", "d, e = b, a", "f = c")]
    assert needed(lines, ["e"]) == ("a = 1", "b = a + 1", "d, e = b, a")
    assert needed(lines, []) == ()

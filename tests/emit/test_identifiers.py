"""What may enter emitted code, and what may not."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.emit.identifiers import Code, comment, identifier, number, tensor_name
from attngen.errors import UnsafeValue


@given(st.text())
def test_identifiers_are_plain_names_or_refused(text: str) -> None:
    try:
        name = identifier(text)
    except UnsafeValue:
        return
    assert isinstance(ast.parse(name, mode="eval").body, ast.Name)
    assert name.isascii() and len(name) <= 64 and not name.startswith("__")


@pytest.mark.parametrize("text", ["", "for", "a b", "x\n", "__import__", "ä", "1x", "a" * 65, "x;import os", "x.y"])
def test_refused_names(text: str) -> None:
    with pytest.raises(UnsafeValue):
        identifier(text)


@pytest.mark.parametrize(
    "name", ["tl", "alpha", "offs_m", "BLOCK_M", "t", "t2", "load", "len_m", "turn_n", "begins", "gap", "begin_2", "lists"]
)
def test_tensors_step_aside_for_names_of_the_kernel(name: str) -> None:
    moved = tensor_name(name)
    assert moved != name or name in ("t",)


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False)))
def test_numbers_read_back(value: bool | int | float) -> None:
    back = eval(number(value), {"__builtins__": {}}, {"float": float})
    assert back == value and type(back) is type(value)


def test_numbers_cannot_print_themselves() -> None:
    class Sly(float):
        def __repr__(self) -> str:
            return "__import__('os')"

    assert number(Sly(2.0)) == "2.0"
    with pytest.raises(UnsafeValue):
        number(math.nan)


@given(st.text())
def test_comments_stay_on_their_line_and_inside_their_docstring(text: str) -> None:
    safe = comment(text)
    assert isinstance(safe, Code) and len(safe.splitlines()) <= 1 and safe.isascii()
    tree = ast.parse(f'"""{safe}\n"""\n# {safe}\nx = 1\n')
    assert len(tree.body) == 2

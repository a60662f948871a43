from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.ir.cascade import IDENTITY, Input, arguments_first, operand_of, without_features
from attngen.ir.parser import parse
from attngen.source import SourceLoc

CASCADE = parse("""cascade(scale[m], ids[m]: int, q[m,d], k[n,d]; table: float[:], w: int)
  s[m,n] = sum[d] q[m,d] * k[n,d]
  o[m] = sum[n] s[m,n] * scale[m] * table[w]
  -> o""")


def test_steps_and_inputs_are_found_by_name() -> None:
    step, item = CASCADE.step("o"), CASCADE.input("table")
    assert step is not None and step.axes == ("m",)
    assert item is not None and item.axes is None
    assert CASCADE.step("q") is None and CASCADE.input("o") is None


def test_axes_of_anything() -> None:
    assert CASCADE.axes("s") == ("m", "n")
    assert CASCADE.axes("k") == ("n", "d")
    assert CASCADE.axes("table") == ()
    with pytest.raises(KeyError):
        CASCADE.axes("nothing")


def test_text_is_read_back() -> None:
    assert parse(str(CASCADE)) == CASCADE


def test_where_a_step_was_written_makes_no_difference() -> None:
    """Identical variants of two users are one variant."""
    step = CASCADE.steps[0]
    elsewhere = replace(step, loc=SourceLoc("other.py", 7, "s = q @ k"))
    assert elsewhere == step and hash(elsewhere) == hash(step)


def test_the_operand_tells_the_dtype() -> None:
    """The first with features; what has none may be wider and is read as numbers."""
    assert operand_of(CASCADE.inputs, ("d",)).name == "q"
    assert operand_of(CASCADE.inputs, ()).name == "scale"
    assert [item.name for item in without_features(CASCADE.inputs, ("d",))] == ["scale"]


def test_captures_come_last() -> None:
    mixed = (CASCADE.inputs[4], CASCADE.inputs[2], CASCADE.inputs[5], CASCADE.inputs[0])
    assert [item.name for item in arguments_first(mixed)] == ["q", "scale", "table", "w"]


@pytest.mark.parametrize(
    ("item", "by_value", "differentiable"),
    [
        (Input("w", None, 0, "int", True), True, False),
        (Input("temp", None, 0, "float", True), False, False),
        (Input("temp", None, 0), False, True),
        (Input("ids", ("m",), 1, "int"), False, False),
    ],
)
def test_numbers_and_tensors(item: Input, by_value: bool, differentiable: bool) -> None:
    """A captured float goes through memory, for a launch would round it to 32 bits; a number has no gradient."""
    assert (item.by_value, item.differentiable) == (by_value, differentiable)


def test_reductions_of_nothing() -> None:
    assert {"sum": 0.0, "max": float("-inf"), "logsumexp": float("-inf")} == IDENTITY

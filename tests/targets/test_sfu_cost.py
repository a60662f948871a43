from __future__ import annotations

from attngen.ir.expr import OPS
from attngen.targets.sfu_cost import SPECIAL


def test_costs_are_of_operations_that_exist() -> None:
    assert SPECIAL.keys() <= OPS.keys()
    assert all(count >= 1 for count in SPECIAL.values())


def test_arithmetic_needs_no_special_unit() -> None:
    assert not SPECIAL.keys() & {"add", "sub", "mul", "min", "max", "where", "lt", "relu", "abs", "neg", "floor"}


def test_what_a_function_is_made_of() -> None:
    """A logistic function is an exponential and a division, and so on."""
    assert SPECIAL["sigmoid"] == SPECIAL["exp"] + SPECIAL["div"]
    assert SPECIAL["pow"] == SPECIAL["exp2"] + SPECIAL["log2"]
    assert SPECIAL["gelu_tanh"] >= SPECIAL["tanh"]

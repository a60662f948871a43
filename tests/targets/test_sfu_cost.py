from __future__ import annotations

from attngen.ir.expr import OPS
from attngen.targets.sfu_cost import SFU_OPS


def test_costs_are_of_operations_that_exist() -> None:
    assert SFU_OPS.keys() <= OPS.keys()
    assert all(count >= 1 for count in SFU_OPS.values())


def test_arithmetic_needs_no_special_unit() -> None:
    assert not SFU_OPS.keys() & {"add", "sub", "mul", "min", "max", "where", "lt", "relu", "abs", "neg", "floor"}


def test_what_a_function_is_made_of() -> None:
    """A logistic function is an exponential and a division, and so on."""
    assert SFU_OPS["sigmoid"] == SFU_OPS["exp"] + SFU_OPS["div"]
    assert SFU_OPS["pow"] == SFU_OPS["exp2"] + SFU_OPS["log2"]
    assert SFU_OPS["gelu_tanh"] >= SFU_OPS["tanh"]

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

from attngen.frontend.torch_functions.operators import NAMES, Operators


class Recorded(Operators):
    """Says which operation was asked for."""

    def operate(self, name: str, *others: Any, swapped: bool = False) -> Any:
        return name, others, swapped

    def operate_in_place(self, name: str, other: Any) -> Any:
        return f"{name} in place", (other,), False


BINARY = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "floordiv": operator.floordiv,
    "mod": operator.mod, "pow": operator.pow, "bitwise_and": operator.and_, "bitwise_or": operator.or_, "bitwise_xor": operator.xor,
    "bitwise_left_shift": operator.lshift, "bitwise_right_shift": operator.rshift,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_operators_from_both_sides(name: str) -> None:
    assert BINARY[name](Recorded(), 3) == (name, (3,), False)
    assert BINARY[name](3, Recorded()) == (name, (3,), True)


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_comparisons(name: str) -> None:
    assert getattr(operator, name)(Recorded(), 3) == (name, (3,), False)


def test_one_operand() -> None:
    found = (-Recorded(), +Recorded(), abs(Recorded()), ~Recorded())  # type: ignore[operator]
    assert [name for name, *_ in found] == ["neg", "positive", "abs", "bitwise_not"]


def test_assignments_in_place_are_told_apart() -> None:
    x: Any = Recorded()
    x += 3
    assert x == ("add in place", (3,), False)


def test_quotient_and_remainder_at_once() -> None:
    assert divmod(Recorded(), 3) == (("floordiv", (3,), False), ("mod", (3,), False))  # type: ignore[arg-type]
    assert divmod(3, Recorded()) == (("floordiv", (3,), True), ("mod", (3,), True))  # type: ignore[arg-type]


def test_names_are_those_of_torch() -> None:
    """Each method of a tensor that is an operator, by the name under which torch dispatches it."""
    assert all(hasattr(torch.Tensor, name) for name in NAMES if name not in ("__rlshift__", "__rrshift__"))
    assert NAMES["__rsub__"] == ("sub", True) and NAMES["__sub__"] == ("sub", False)
    assert NAMES["__invert__"] == ("bitwise_not", False)

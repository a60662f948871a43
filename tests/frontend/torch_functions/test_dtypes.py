from __future__ import annotations

import pytest
import torch

from attngen.errors import UnsupportedOperation
from attngen.frontend.torch_functions.dtypes import common, converted, wrapped, wraps
from attngen.ir.expr import Apply, Const, Read, kind_of
from tests.analysis.brute import FUNCTIONS

NARROW = [torch.uint8, torch.int8, torch.int16]
NUMBERS = [-70000, -32769, -32768, -129, -128, -1, 0, 1, 127, 128, 255, 256, 32767, 32768, 70000]


def value(expr, x: int) -> int:
    match expr:
        case Const(value=number):
            return int(number)
        case Read():
            return x
        case Apply(op="bitand", args=(a, b)):
            return value(a, x) & value(b, x)
        case Apply(op=op, args=args):
            return FUNCTIONS[op](*(value(arg, x) for arg in args))
    raise AssertionError(expr)


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_numbers_wrap_around_as_those_of_torch(dtype: torch.dtype) -> None:
    """Literals at once, others by an expression."""
    for number in NUMBERS:
        expected = int(torch.tensor(number, dtype=torch.int64).to(dtype))
        assert value(wrapped(Const(number, "int"), dtype), 0) == expected
        assert value(wrapped(Read("x", (), "int"), dtype), number) == expected


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.float64, "float"), (torch.float32, "float"), (torch.int32, "int"), (torch.int64, "int"), (torch.bool, "bool")],
)
def test_casts_to_wide_types_change_the_kind_alone(dtype: torch.dtype, kind: str) -> None:
    x = Read("x", (), "float")
    found = converted(x, dtype)
    assert kind_of(found) == kind
    assert (found == x) == (kind == "float")


@pytest.mark.parametrize(("dtype", "op"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_casts_to_narrow_floats_round(dtype: torch.dtype, op: str) -> None:
    """By an operation that no algebra looks into; the kind stays."""
    found = converted(Read("x", ()), dtype)
    assert found == Apply(op, (Read("x", ()),)) and kind_of(found) == "float"


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_types_that_no_value_has(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedOperation, match="a cast to torch"):
        converted(Read("x", ()), dtype)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.uint8, torch.uint8), torch.uint8),
        ((torch.uint8, torch.int8), torch.int16),
        ((torch.int8, torch.bool), torch.int8),
        ((torch.int8, torch.int32), None),
        ((torch.int8, None), None),
        ((torch.bool,), None),
    ],
)
def test_the_type_that_numbers_meet_in(dtypes: tuple[torch.dtype | None, ...], expected: torch.dtype | None) -> None:
    assert common(dtypes) == expected


def test_what_leaves_its_range() -> None:
    assert all(map(wraps, ("add", "mul", "neg", "bitwise_left_shift")))
    assert not any(map(wraps, ("minimum", "where", "mod", "sign")))

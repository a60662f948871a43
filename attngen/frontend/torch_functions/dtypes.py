"""Types of torch in a trace: casts that round, and whole numbers of 8 and 16 bits, whose arithmetic wraps around.

An expression has a kind and no more. A cast to a narrower float type is an operation of its own, which no algebra looks into; what is
computed from its result is computed in the working precision again, as torch.compile does. A narrow whole number stays known by its
dtype: results are taken modulo 2**8 or 2**16 where PyTorch's are, and Python's numbers that meet it first become such numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from attngen.errors import UnsupportedOperation
from attngen.frontend.torch_functions.pointwise import cast
from attngen.frontend.tracing.trace import NARROW, kind_of_dtype
from attngen.ir import build
from attngen.ir.expr import Const, Expr

_FLOATS = {torch.float64: "", torch.float32: "", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_INTEGERS = (torch.bool, torch.int32, torch.int64, *NARROW)
_NEVER_WRAP = frozenset(
    (
        *("minimum", "maximum", "clamp", "clamp_min", "clamp_max", "where", "masked_fill", "bitwise_and", "bitwise_or", "bitwise_xor"),
        *("bitwise_right_shift", "mod", "fmod", "fmin", "fmax", "positive", "sign", "round", "floor", "ceil", "trunc"),
    )
)
"""Whose results lie between their arguments, or in the range of their types."""


def converted(expr: Expr, dtype: torch.dtype) -> Expr:
    """A value as another type: rounded, or wrapped around, where that is narrower than what it is computed in.

    Raises:
        UnsupportedOperation: no value here has such a type.
    """
    if dtype not in _FLOATS and dtype not in _INTEGERS:
        raise UnsupportedOperation(
            f"a cast to {dtype} in a traced function",
            remedy="Round to torch.float16 or torch.bfloat16, or to whole numbers of signed types; prepare other types before the call.",
        )
    result = cast(expr, kind_of_dtype(dtype))
    if _FLOATS.get(dtype):
        return build.apply(_FLOATS[dtype], result)
    return wrapped(result, dtype) if dtype in NARROW else result


def wrapped(expr: Expr, dtype: torch.dtype) -> Expr:
    """A whole number modulo the range of a type."""
    size = 1 << NARROW[dtype]
    if isinstance(expr, Const):
        value = int(expr.value) % size
        return build.const(value - size if dtype.is_signed and value >= size // 2 else value)
    if not dtype.is_signed:
        return build.apply("bitand", expr, build.const(size - 1))
    half = build.const(size // 2)
    return build.sub(build.apply("bitand", build.add(expr, half), build.const(size - 1)), half)


def common(dtypes: Iterable[torch.dtype | None]) -> torch.dtype | None:
    """The narrow type that tensors of these types are computed in together; None stands for, and gives, one that does not wrap."""
    result = torch.bool
    for dtype in dtypes:
        if dtype is None:
            return None
        result = torch.promote_types(result, dtype)
    return result if result in NARROW else None


def wraps(operation: str) -> bool:
    """Whether the result of an operation on narrow numbers may leave their range."""
    return operation not in _NEVER_WRAP

"""torch dtypes in a trace: casts that round, and integers of 8 and 16 bits, whose arithmetic wraps around.

An expression has a kind but no dtype. A cast to a narrower float type is an opaque operation; its result is used in the working precision
again, as in torch.compile. A narrow integer keeps its dtype: results are taken modulo 2**8 or 2**16 where PyTorch's are, and Python numbers
combined with it are first converted to it.
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
"""Operations whose results cannot overflow."""


def converted(expr: Expr, dtype: torch.dtype) -> Expr:
    """A value cast to another type: rounded or wrapped if that is narrower than the working precision.

    Raises:
        UnsupportedOperation: the type is not supported.
    """
    if dtype not in _FLOATS and dtype not in _INTEGERS:
        raise UnsupportedOperation(
            f"a cast to {dtype} in a traced function",
            remedy="Cast to torch.float16, torch.bfloat16 or signed integers; prepare other types before the call.",
        )
    result = cast(expr, kind_of_dtype(dtype))
    if _FLOATS.get(dtype):
        return build.apply(_FLOATS[dtype], result)
    return wrapped(result, dtype) if dtype in NARROW else result


def wrapped(expr: Expr, dtype: torch.dtype) -> Expr:
    """An integer modulo the range of a type."""
    size = 1 << NARROW[dtype]
    if isinstance(expr, Const):
        value = int(expr.value) % size
        return build.const(value - size if dtype.is_signed and value >= size // 2 else value)
    if not dtype.is_signed:
        return build.apply("bitand", expr, build.const(size - 1))
    half = build.const(size // 2)
    return build.sub(build.apply("bitand", build.add(expr, half), build.const(size - 1)), half)


def common(dtypes: Iterable[torch.dtype | None]) -> torch.dtype | None:
    """The narrow type to which these types promote; None stands for a type that does not wrap."""
    result = torch.bool
    for dtype in dtypes:
        if dtype is None:
            return None
        result = torch.promote_types(result, dtype)
    return result if result in NARROW else None


def wraps(operation: str) -> bool:
    """Whether an operation on narrow integers may overflow."""
    return operation not in _NEVER_WRAP

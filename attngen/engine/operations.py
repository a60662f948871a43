"""Operations of `ir.expr` as Python text: on numbers, and on tensors.

A number is a Python int, float or bool: lengths, captured integers, bounds. `{out}` is where an operation on tensors may be told to write.
"""

from __future__ import annotations

from attngen.ir.expr import OPS

_INFIX = ("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne", "bitor", "bitxor", "bitand", "shl", "shr", "and", "or")

NUMBERS: dict[str, str] = {
    **{op: f"({{0}} {OPS[op].symbol} {{1}})" for op in _INFIX},
    "not": "(not {0})",
    "neg": "(-{0})",
    "abs": "abs({0})",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
    "where": "({1} if {0} else {2})",
    "pow": "power({0}, {1})",
    "to_float": "float({0})",
    "to_int": "int({0})",
    "to_bool": "bool({0})",
}
"""Text of an operation on numbers; any other goes by way of a tensor (`library.number`)."""

_FUNCTIONS = {
    **{
        op: op
        for op in ("add", "sub", "mul", "div", "neg", "abs", "exp", "exp2", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "sin", "cos")
    },
    **{op: op for op in ("atan", "atan2", "asinh", "erf", "tanh", "sigmoid", "logaddexp", "floor", "ceil", "sign", "pow")},
    "rint": "round",
    "tanh_small": "tanh",
    "min": "minimum",
    "max": "maximum",
    "where": "where",
    **{op: op for op in ("lt", "le", "gt", "ge", "eq", "ne")},
    "and": "logical_and",
    "or": "logical_or",
    "not": "logical_not",
    "bitor": "bitwise_or",
    "bitxor": "bitwise_xor",
    "bitand": "bitwise_and",
    "shl": "bitwise_left_shift",
    "shr": "bitwise_right_shift",
}
"""Functions of torch that take `out`."""

LIBRARY = (
    *("floordiv", "mod", "int_pow", "clamp", "clamp_min", "clamp_max", "hardtanh", "safe_div", "softplus", "relu", "gelu", "gelu_tanh"),
    *("float16", "bfloat16", "random_bits"),
)
"""Functions of `library`, which do not."""

WRITES = frozenset(_FUNCTIONS)
"""Operations on tensors that can write into a tensor that there is."""

SCALARS = {
    **{op: (1,) for op in ("add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq", "ne", "bitor", "bitxor", "bitand", "shl", "shr")},
    "where": (1, 2),
    "pow": (0, 1),
    "clamp": (1, 2),
    "clamp_min": (1,),
    "clamp_max": (1,),
}
"""Which operands of an operation on tensors may be numbers; others become tensors first."""

MIRRORED = {"add": "add", "mul": "mul", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
"""The operation with its operands exchanged."""


def on_numbers(op: str, args: list[str]) -> str:
    """An operation on numbers."""
    if op in NUMBERS:
        return NUMBERS[op].format(*args)
    return f'number("{op}", {", ".join(args)})'


def on_tensors(op: str, args: list[str], out: str) -> str:
    """An operation on tensors, or on tensors and numbers where `SCALARS` allows them; `out` is a tensor to write into, or ""."""
    tail = f", out={out}" if out else ""
    if op in _FUNCTIONS:
        return f"torch.{_FUNCTIONS[op]}({', '.join(args)}{tail})"
    return f"{op}({', '.join(args)}{tail})"

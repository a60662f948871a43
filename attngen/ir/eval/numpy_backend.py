"""The NumPy backend of the interpreter, in float64 by default. No gradients, no rounding of intermediate results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from attngen.ir.cascade import Reduce
from attngen.ir.eval.philox import random_bits
from attngen.ir.expr import Kind

Array = Any
_erf_of = np.vectorize(math.erf, otypes=[np.float64])
_erfc_of = np.vectorize(math.erfc, otypes=[np.float64])


def _quotient(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b))


def _floordiv(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b))) if np.issubdtype(a.dtype, np.integer) else a // b


def _mod(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b))) if np.issubdtype(a.dtype, np.integer) else np.mod(a, b)


def _sigmoid(x: Array) -> Array:
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.zeros_like(x))


def _erf(x: Array) -> Array:
    return _erf_of(x).astype(x.dtype)


def _gelu(x: Array) -> Array:
    return x * 0.5 * _erfc_of(-x / math.sqrt(2)).astype(x.dtype)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _rsqrt(x: Array) -> Array:
    return 1 / np.sqrt(x)


def _gelu_tanh(x: Array) -> Array:
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _int_pow(a: Array, b: Array) -> Array:
    """Integer powers of integers, modulo 2**64."""
    a, b = np.broadcast_arrays(a, b)
    result, square, rest = np.ones_like(a), a, np.maximum(b, 0)
    while np.any(rest):
        result, square, rest = np.where(rest & 1, result * square, result), square * square, rest >> 1
    inverse = np.where(a == 1, 1, np.where(a == -1, 1 - 2 * (b & 1), 0))
    return np.where(b < 0, inverse, result)


def _clamp(x: Array, low: Array, high: Array) -> Array:
    return np.minimum(np.maximum(x, low), high)


def _float16(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float16).astype(x.dtype)


def _bfloat16(x: Array) -> Array:
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x).astype(x.dtype)


_POINTWISE: dict[str, Callable[..., Array]] = {
    "or": np.logical_or,
    "and": np.logical_and,
    "not": np.logical_not,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitand": np.bitwise_and,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": _floordiv,
    "mod": _mod,
    "neg": np.negative,
    "pow": np.power,
    "int_pow": _int_pow,
    "min": np.minimum,
    "max": np.maximum,
    **dict.fromkeys(("clamp", "hardtanh"), _clamp),
    "clamp_min": np.maximum,
    "clamp_max": np.minimum,
    "abs": np.abs,
    "where": np.where,
    "safe_div": _quotient,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": _rsqrt,
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "asinh": np.arcsinh,
    "erf": _erf,
    "tanh": np.tanh,
    "tanh_small": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "logaddexp": np.logaddexp,
    "floor": np.floor,
    "ceil": np.ceil,
    "rint": np.rint,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "sign": np.sign,
    "random_bits": random_bits,
}


def _quiet(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function without warnings: it may overflow at masked elements."""

    def call(*args: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(*args)

    return call


class NumpyBackend:
    """See `interpret.Backend`.

    Args:
        dtype: the working float type.
    """

    def __init__(self, dtype: Any = np.float64) -> None:
        self._dtypes: dict[Kind, Any] = {"bool": np.bool_, "int": np.int64, "float": dtype}
        self._pointwise = {name: _quiet(function) for name, function in _POINTWISE.items()}
        self._pointwise["to_float"] = partial(self.cast, kind="float")
        self._pointwise["to_int"] = partial(self.cast, kind="int")
        self._pointwise["to_bool"] = partial(self.cast, kind="bool")

    @property
    def pointwise(self) -> Mapping[str, Callable[..., Array]]:
        return self._pointwise

    def array(self, value: Any, kind: Kind) -> Array:
        return np.asarray(value).astype(self._dtypes[kind])

    def cast(self, array: Array, kind: Kind) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(array).astype(self._dtypes[kind], copy=False)

    def full(self, shape: tuple[int, ...], value: bool | int | float, kind: Kind) -> Array:
        return np.full(shape, value, dtype=self._dtypes[kind])

    def arange(self, length: int) -> Array:
        return np.arange(length, dtype=np.int64)

    def permute(self, array: Array, order: tuple[int, ...]) -> Array:
        return np.transpose(array, order)

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        return np.reshape(array, shape)

    def broadcast(self, array: Array, shape: tuple[int, ...]) -> Array:
        return np.broadcast_to(array, shape)

    def gather(self, array: Array, positions: tuple[Array, ...]) -> Array:
        return array[positions]

    def reduce(self, array: Array, reduce: Reduce, count: int) -> Array:
        dims = tuple(range(array.ndim - count, array.ndim))
        match reduce:
            case "sum":
                return np.sum(array, axis=dims)
            case "max":
                return np.max(array, axis=dims)
            case "logsumexp":
                peak = np.max(array, axis=dims, keepdims=True)
                peak = np.where(np.isfinite(peak), peak, 0)
                with np.errstate(all="ignore"):
                    return np.log(np.sum(np.exp(array - peak), axis=dims)) + np.squeeze(peak, dims)

    def contract(self, subscripts: str, factors: tuple[Array, ...]) -> Array:
        return np.asarray(np.einsum(subscripts, *factors, optimize="greedy"))

    def any(self, array: Array) -> bool:
        return bool(np.any(array))

    def finite(self, array: Array) -> bool:
        return bool(np.all(np.isfinite(array)))

    def guard(self, array: Array, exists: Array) -> Array:
        return array

    def store(self, array: Array, reduce: Reduce | None) -> Array:
        return array

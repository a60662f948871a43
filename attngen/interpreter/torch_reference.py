"""A cascade in plain PyTorch: the reference that kernels are held to, differentiable by autograd, at any precision.

With `rounding` it is the formula as PyTorch runs it at low precision, which is the yardstick for a kernel's error: computed in `dtype`,
each step's result rounded, but not the row statistics inside of a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngen.ir.cascade import Cascade, Reduce
from attngen.ir.eval.interpret import interpret
from attngen.ir.eval.philox import random_bits
from attngen.ir.expr import Kind


def reference(
    cascade: Cascade, values: Mapping[str, Any], dtype: torch.dtype = torch.float64, rounding: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Evaluate every step of a cascade in PyTorch.

    Args:
        cascade: a verified cascade.
        values: a tensor or number for each input; gradients flow back to those that require them. All on one device.
        dtype: the float type that everything is computed in.
        rounding: a narrower type that the result of every step but max and logsumexp is rounded to.

    Returns:
        Tensors of `dtype`, int64 or bool by step name, in step order.

    Raises:
        As `attngen.ir.eval.interpret.interpret`.
    """
    devices = [value.device for value in values.values() if isinstance(value, Tensor) and value.dim() > 0]
    device = devices[0] if devices else _CPU
    return interpret(cascade, values, TorchBackend(dtype, device, rounding))


class _Guard(torch.autograd.Function):
    """Identity whose gradient is 0 at missing elements: 0 * inf, computed where nothing exists, must not leave NaN behind."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Tensor, exists: Tensor) -> Tensor:
        del exists
        return array.view_as(array)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (exists,) = ctx.saved_tensors
        return torch.where(exists, grads[0], torch.zeros_like(grads[0])), None


def _safe_div(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0, with gradient 0, where b is 0."""
    empty = b == 0
    return torch.where(empty, torch.zeros_like(a), a / torch.where(empty, torch.ones_like(b), b))


def _divide_down(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An integer division gives 0 where the divisor is 0, instead of raising for elements that are missing."""

    def divide(a: Tensor, b: Tensor) -> Tensor:
        if a.is_floating_point():
            return function(a, b)
        empty = b == 0
        result = function(a, torch.where(empty, torch.ones_like(b), b))
        return torch.where(empty, torch.zeros_like(result), result)

    return divide


_POINTWISE: dict[str, Callable[..., Tensor]] = {
    "or": torch.logical_or,
    "and": torch.logical_and,
    "not": torch.logical_not,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "bitor": torch.bitwise_or,
    "bitxor": torch.bitwise_xor,
    "bitand": torch.bitwise_and,
    "shl": torch.bitwise_left_shift,
    "shr": torch.bitwise_right_shift,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "floordiv": _divide_down(torch.floor_divide),
    "mod": _divide_down(torch.remainder),
    "neg": torch.neg,
    "pow": torch.pow,
    "int_pow": torch.pow,
    "min": torch.minimum,
    "max": torch.maximum,
    "clamp": torch.clamp,
    "clamp_min": torch.clamp_min,
    "clamp_max": torch.clamp_max,
    "hardtanh": lambda x, low, high: torch.where(x <= low, low, torch.where(x >= high, high, x)),
    "abs": torch.abs,
    "where": torch.where,
    "safe_div": _safe_div,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "atan2": torch.atan2,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "tanh_small": torch.tanh,
    "sigmoid": torch.sigmoid,
    # F.softplus turns linear at 20, which is not exact enough in float64.
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "logaddexp": torch.logaddexp,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "rint": torch.round,
    "float16": lambda x: x.to(torch.float16).to(x.dtype),
    "bfloat16": lambda x: x.to(torch.bfloat16).to(x.dtype),
    "sign": torch.sign,
    "random_bits": random_bits,
}


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class TorchBackend:
    """See `attngen.ir.eval.interpret.Backend`.

    Attributes:
        dtype: the working float type.
        device: where everything is computed.
        rounding: the type that results are rounded to (and gradients on their way back), if any.
    """

    dtype: torch.dtype = torch.float64
    device: torch.device = _CPU
    rounding: torch.dtype | None = None

    @property
    def pointwise(self) -> Mapping[str, Callable[..., Tensor]]:
        conversions: dict[str, Callable[..., Tensor]] = {
            "to_float": lambda x: self.cast(x, "float"),
            "to_int": lambda x: self.cast(x, "int"),
            "to_bool": lambda x: self.cast(x, "bool"),
        }
        return {**_POINTWISE, **conversions}

    def _dtype(self, kind: Kind) -> torch.dtype:
        return self.dtype if kind == "float" else torch.int64 if kind == "int" else torch.bool

    def array(self, value: Any, kind: Kind) -> Tensor:
        return torch.as_tensor(value, device=self.device).to(self._dtype(kind))

    def cast(self, array: Tensor, kind: Kind) -> Tensor:
        return array.to(self._dtype(kind))

    def full(self, shape: tuple[int, ...], value: bool | int | float, kind: Kind) -> Tensor:
        return torch.full(shape, value, dtype=self._dtype(kind), device=self.device)

    def arange(self, length: int) -> Tensor:
        return torch.arange(length, device=self.device)

    def permute(self, array: Tensor, order: tuple[int, ...]) -> Tensor:
        return array.permute(order)

    def reshape(self, array: Tensor, shape: tuple[int, ...]) -> Tensor:
        return array.reshape(shape)

    def broadcast(self, array: Tensor, shape: tuple[int, ...]) -> Tensor:
        return array.expand(shape)

    def gather(self, array: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
        return array[positions]

    def reduce(self, array: Tensor, reduce: Reduce, count: int) -> Tensor:
        dims = tuple(range(array.dim() - count, array.dim()))
        match reduce:
            case "sum":
                return torch.sum(array, dim=dims)
            case "max":
                return torch.amax(array, dim=dims)
            case "logsumexp":
                return _logsumexp(array, dims)

    def contract(self, subscripts: str, factors: tuple[Tensor, ...]) -> Tensor:
        return torch.einsum(subscripts, *factors)

    def any(self, array: Tensor) -> bool:
        return bool(array.any())

    def finite(self, array: Tensor) -> bool:
        return bool(array.isfinite().all())

    def guard(self, array: Tensor, exists: Tensor) -> Tensor:
        if not (array.requires_grad and torch.is_grad_enabled()):
            return array
        shape = torch.broadcast_shapes(array.shape, exists.shape)
        guarded: Tensor = _Guard.apply(array.expand(shape), exists.expand(shape))
        return guarded

    def store(self, array: Tensor, reduce: Reduce | None) -> Tensor:
        if self.rounding is None or reduce in ("max", "logsumexp"):
            return array
        return array.to(self.rounding).to(self.dtype)


def _logsumexp(array: Tensor, dims: tuple[int, ...]) -> Tensor:
    """log(sum(exp(array))), -inf and without gradient where every element is -inf."""
    peak = torch.amax(array.detach(), dim=dims, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, torch.zeros_like(peak))
    total = torch.sum(torch.exp(array - peak), dim=dims)
    empty = total == 0
    logs = torch.log(torch.where(empty, torch.ones_like(total), total)) + peak.reshape(total.shape)
    return torch.where(empty, torch.full_like(logs, float("-inf")), logs)

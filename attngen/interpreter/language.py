"""Triton's language with the interpreter's meaning: what is swapped in for the duration of a run, and taken out after it.

Gives `interpreted_language()`, a context manager under one lock. `triton.language` is a set of modules and classes shared by compiler and
interpreter, so every attribute that the interpreter needs otherwise is recorded once with its original and exchanged on entry and exit;
outside a run the language is as Triton made it and `triton.compile` works. The builder below repairs what Triton's own leaves wrong on
every version so far: bf16 (kept as bits; here computed in fp32 and rounded to nearest even), maxima of NaN, and fp16 dots of poor speed.
"""

from __future__ import annotations

import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from attngen.errors import InternalError
from attngen.interpreter.language_types import replacements
from attngen.interpreter.triton_api import JITFunction, TritonSemantic, tl, triton
from attngen.interpreter.triton_api import interpreter as base

LOCK = threading.RLock()
_MISSING = object()
Handle = base.TensorHandle


def is_bfloat16(handle: Any) -> bool:
    """Whether a handle carries bf16 bits. The dtype of a comparison's handle is that of its operands, so the data decides as well."""
    return handle.data.dtype == np.uint16 and handle.dtype.scalar == tl.bfloat16


def widen(handle: Any) -> Any:
    """A bf16 handle as fp32, exactly; any other handle unchanged."""
    if not is_bfloat16(handle):
        return handle
    return Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def narrow(data: Any) -> Any:
    """A handle of bf16 bits from numbers, rounded to nearest even by way of fp32."""
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return Handle(np.where(is_nan, np.uint16(0x7FC0), rounded).reshape(np.shape(data)), tl.bfloat16)


class Builder(base.InterpreterBuilder):
    """Triton's interpreting builder with bf16 arithmetic. Everything it does not override works on bits or never meets a bf16."""

    def get_bf16(self, value: float) -> Any:
        return narrow(np.array([value], dtype=np.float32))

    def cast_impl(self, src: Any, dst_type: Any) -> Any:
        src = widen(src)
        if dst_type.scalar == tl.bfloat16:
            return narrow(src.data)
        return super().cast_impl(src, dst_type)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        if dst_type.scalar == tl.bfloat16 and rounding_mode == base._ir.ROUNDING_MODE.RTNE:
            return self.cast_impl(src, dst_type)
        return super().create_fp_to_fp(src, dst_type, rounding_mode)

    def binary_op(self, lhs: Any, rhs: Any, op: Callable[..., Any]) -> Any:
        if not is_bfloat16(lhs):
            result = super().binary_op(lhs, rhs, op)
            # A truth value in the type of what was compared would be spread over a block as a number of that type.
            return Handle(result.data, tl.int1) if result.data.dtype == np.bool_ else result
        result = op(widen(lhs).data, widen(rhs).data)
        return Handle(result, tl.int1) if result.dtype == np.bool_ else narrow(result)

    def unary_op(self, arg: Any, op: Callable[..., Any]) -> Any:
        return self._through_fp32(super().unary_op, arg, op)

    def create_erf(self, arg: Any) -> Any:
        return self._through_fp32(super().create_erf, arg)

    def create_rsqrt(self, arg: Any) -> Any:
        return self._through_fp32(super().create_rsqrt, arg)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        """Rounds once, as the hardware does: the product of two fp32 numbers is exact in fp64."""
        if z.data.dtype == np.float32:
            exact = super().create_fma(*(Handle(item.data.astype(np.float64), tl.float64) for item in (x, y, z)))
            return Handle(exact.data.astype(np.float32), tl.float32)
        result = super().create_fma(widen(x), widen(y), widen(z))
        return narrow(result.data) if is_bfloat16(z) else result

    def create_clampf(self, arg: Any, lo: Any, hi: Any, propagate_nans: Any) -> Any:
        keep_nan = propagate_nans != base._ir.PROPAGATE_NAN.NONE
        lower, upper = (np.maximum, np.minimum) if keep_nan else (np.fmax, np.fmin)
        return self.binary_op(self.binary_op(arg, lo, lower), hi, upper)

    def create_maxnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmax)

    def create_minnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmin)

    def create_dot(self, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        if is_bfloat16(d):
            raise TypeError("tl.dot into a bf16 accumulator")
        if a.data.dtype.itemsize == 1 or not a.dtype.is_floating():
            return super().create_dot(a, b, d, *precision)
        # In fp64, so that a @ b and b.T @ a.T agree as they do on a GPU, where each sum runs along k; numpy's fp32 routine sums them
        # differently, and a backward that forms its scores transposed would not meet the scores of the forward.
        product = np.matmul(widen(a).data.astype(np.float64), widen(b).data.astype(np.float64))
        return Handle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    @staticmethod
    def _through_fp32(compute: Callable[..., Any], arg: Any, *rest: Any) -> Any:
        result = compute(widen(arg), *rest)
        return narrow(result.data) if is_bfloat16(arg) else result


def _widened(inputs: Any) -> Any:
    """Tensors as they enter a reduction: bf16 becomes fp32."""
    if isinstance(inputs, tuple):
        return tuple(_widened(item) for item in inputs)
    return SEMANTIC.cast(inputs, tl.float32) if inputs.dtype == tl.bfloat16 else inputs


def _narrowed(results: Any, inputs: Any) -> Any:
    """Results of a reduction of widened inputs, in the inputs' own types."""
    if isinstance(inputs, tuple):
        return tuple(_narrowed(result, item) for result, item in zip(results, inputs, strict=True))
    return SEMANTIC.cast(results, tl.bfloat16) if inputs.dtype == tl.bfloat16 else results


class Reduce(base.ReduceOps):
    """Reductions with bf16 in fp32, and maxima and minima that skip NaN like the hardware's, without numpy's warning where all are NaN."""

    def apply(self, input: Any) -> Any:
        return _narrowed(super().apply(_widened(input)), input)

    def min_max(self, input: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        quiet = {np.nanmax: np.fmax.reduce, np.nanmin: np.fmin.reduce}
        return super().min_max(input, quiet.get(val_reduce_op, val_reduce_op), idx_reduce_op)


class Scan(base.ScanOps):
    """Prefix operations with bf16 in fp32."""

    def apply(self, input: Any) -> Any:
        return _narrowed(super().apply(_widened(input)), input)


class Semantic(TritonSemantic):
    """Triton's rules, with its check of narrow integers for overflow made in one step. Gluon's rules refuse blocks of unequal rank."""

    equal_ranks = False

    def broadcast_impl_value(self, lhs: Any, rhs: Any) -> Any:
        if self.equal_ranks and lhs.type.is_block() and rhs.type.is_block() and len(lhs.shape) != len(rhs.shape):
            raise ValueError(f"blocks of shapes {lhs.shape} and {rhs.shape} have unequal ranks")
        return super().broadcast_impl_value(lhs, rhs)

    def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Callable[..., Any]) -> None:
        kind = lhs.type.scalar
        if kind.int_bitwidth >= 64:
            return
        exact = _EXACT[binary_op.__name__](lhs.handle.data.astype(np.int64), rhs.handle.data.astype(np.int64))
        least, most = kind.get_int_min_value(), kind.get_int_max_value()
        if exact.size and not (least <= exact.min() and exact.max() <= most):
            raise OverflowError(f"int{kind.int_bitwidth} overflow in {binary_op.__name__}")


_EXACT: dict[str, Callable[..., Any]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
BUILDER = Builder()
SEMANTIC = Semantic(BUILDER)


def assign(value: Any) -> Any:
    """What an assignment binds: constants become scalar tensors, as in the compiler."""
    if isinstance(value, tl.tensor):
        return value
    if type(value) is tuple:
        return tuple(assign(item) for item in value)
    return SEMANTIC.to_tensor(value, False)


def truth(value: Any) -> Any:
    """The value itself, unless it is a block, whose truth the compiler refuses."""
    if isinstance(value, tl.tensor) and value.handle.data.size != 1:
        raise TypeError("a block has no single truth value; combine blocks with &, | and ~")
    return value


def loop(*bounds: Any, step: Any = None, **_hints: Any) -> Iterator[Any]:
    """`range` and `tl.range`: the variable is a scalar tensor of the bounds' integer type."""
    plain = range(*bounds) if step is None else range(bounds[0] if len(bounds) == 2 else 0, bounds[-1], step)
    wide = any(isinstance(bound, tl.tensor) and bound.dtype.primitive_bitwidth == 64 for bound in bounds)
    for value in plain:
        yield tl.tensor(BUILDER.get_int64(value), tl.int64) if wide else tl.tensor(BUILDER.get_int32(value), tl.int32)


@contextmanager
def equal_ranks() -> Iterator[None]:
    """While the body runs, blocks combine only with blocks of their rank, as in Gluon. The lock is held."""
    Semantic.equal_ranks = True
    try:
        yield
    finally:
        Semantic.equal_ranks = False


@contextmanager
def interpreted_language(make_twin: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Holds the lock and the interpreter's language while the body runs.

    Args:
        make_twin: gives the interpreting twin of one of Triton's own `JITFunction`s; called on the first entry only.
    """
    with LOCK, np.errstate(all="ignore"):
        changes = _changes(make_twin)
        _exchange((owner, name, new) for owner, name, _, new in changes)
        try:
            yield
        finally:
            _exchange((owner, name, old) for owner, name, old, _ in changes)


def _exchange(settings: Iterator[tuple[Any, str, Any]]) -> None:
    for owner, name, value in settings:
        if value is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


@cache
def _changes(make_twin: Callable[[Any], Callable[..., Any]]) -> tuple[tuple[Any, str, Any, Any], ...]:
    """Every attribute to exchange, as (owner, name, original, replacement). The lock is held."""
    replaced: dict[tuple[int, str], tuple[Any, str, Any]] = {}

    def put(owner: Any, name: str, value: Any) -> None:
        replaced[id(owner), name] = (owner, name, value)

    for owner, name, value in _upstream_changes():
        put(owner, name, value)
    for owner, name, value in _own_changes():
        put(owner, name, value)
    twins: dict[int, Callable[..., Any]] = {}
    for owner in (*_language_modules(), tl.tensor):
        for name, member in vars(owner).items():
            if isinstance(member, JITFunction):
                twin = twins.setdefault(id(member), make_twin(member))
                put(owner, name, _as_method(twin) if owner is tl.tensor else twin)
    # Attributes are read from the owner's own dictionary: what a class inherits must be deleted again, not copied down.
    return tuple((owner, name, vars(owner).get(name, _MISSING), value) for owner, name, value in replaced.values())


def _upstream_changes() -> list[tuple[Any, str, Any]]:
    """The patches that Triton's interpreter would apply per launch, made once against this module's builder."""
    saved = (base.interpreter_builder, base.interpreter_semantic, base.TritonSemantic)
    base.interpreter_builder, base.interpreter_semantic, base.TritonSemantic = BUILDER, SEMANTIC, Semantic
    try:
        scope = base._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        try:
            return [(owner, name, vars(owner)[name]) for owner, name, _ in scope._changes]
        finally:
            scope.restore()
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise InternalError(f"the interpreter of Triton {triton.__version__} has moved: {error!r}") from error
    finally:
        base.interpreter_builder, base.interpreter_semantic, base.TritonSemantic = saved


def _own_changes() -> list[tuple[Any, str, Any]]:
    changes: list[tuple[Any, str, Any]] = [
        (base, "interpreter_builder", BUILDER),
        (base, "interpreter_semantic", SEMANTIC),
        (base, "ReduceOps", Reduce),
        (base, "ScanOps", Scan),
        # int() of an array with one axis is an error from numpy 2.4 on, and Triton 3.6 still asks for it.
        (tl.tensor, "__index__", lambda self: int(self.handle.data.item())),
    ]
    changes += [(module, "range", loop) for module in (tl, tl.core)]
    return changes + replacements()


def _as_method(twin: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return twin(self, *args, **kwargs)

    return method


def _language_modules() -> list[types.ModuleType]:
    prefix = tl.__name__ + "."
    inner = [module for name, module in sorted(sys.modules.items()) if name.startswith(prefix) and not name.startswith(prefix + "extra")]
    return [tl, *(module for module in inner if inspect.ismodule(module))]

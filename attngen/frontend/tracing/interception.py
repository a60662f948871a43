"""Intercepts every torch function called during a trace.

A `TorchFunctionMode` also sees calls without traced values, which proxies would miss: `torch.rand(())` would otherwise be drawn once and
frozen into the kernel. Calls on traced or captured values become expressions; views of captured tensors and constants created by the
function are evaluated; anything else that would freeze data into the kernel is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from attngen.errors import (
    AttngenError,
    DataDependentBranch,
    RandomInMod,
    ReductionInMod,
    TracedConversion,
    TracedMutation,
    UnsupportedOperation,
)
from attngen.frontend.captures.origins import Attribute, Guard, Item, Origin, called, is_origin, parents
from attngen.frontend.captures.proxies import plain
from attngen.frontend.torch_functions.operators import NAMES as OPERATORS
from attngen.frontend.torch_functions.torch_names import (
    CUSTOM_OPERATORS,
    DEFINITE,
    METADATA,
    METHODS,
    RANDOM,
    REDUCTIONS,
    ROW_OPERATIONS,
    operation,
    unsupported,
)
from attngen.frontend.tracing.trace import Trace
from attngen.frontend.tracing.tracer import Traced, lift, pointwise

LIKE = {"zeros_like": 0, "ones_like": 1}
_KEYWORDS = {"input": "a", "self": "a", "other": "b", "exponent": "b", "end": "b"}


class Refused(BaseException):
    """Carries an error past torch, which turns a TypeError under an operator into "try the other operand"."""

    def __init__(self, error: AttngenError) -> None:
        super().__init__(str(error))
        self.error = error


class Interception(TorchFunctionMode):
    """Active while one user function runs."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        try:
            return self._dispatch(func, args, kwargs or {})
        except AttngenError as error:
            raise Refused(error) from None

    def _dispatch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = _name(func)
        args, kwargs = _plain(args), {key: _plain(value) for key, value in kwargs.items()}
        if name in RANDOM:
            raise RandomInMod(f"`{name}` while tracing: its values would be frozen into the kernel", remedy="Capture a tensor of them.")
        values = list(_flat((*args, *kwargs.values())))
        traced = any(type(value) is Traced for value in values)
        captured = [value for value in values if type(value) is not Traced and isinstance(value, torch.Tensor) and self._is_captured(value)]
        if traced or captured:
            _refuse_mutation(func, name, args, kwargs)
        if name in METADATA and not traced:
            return self._told(func(*args, **kwargs), func, args, kwargs)
        if traced or (captured and _has_meaning(name)):
            result = self._traced(func, name, args, kwargs)
            if type(result) is Traced and result.trace is None:
                result.trace = self.trace
            return result
        return self._evaluated(func, name, args, kwargs, captured)

    def _is_captured(self, tensor: torch.Tensor) -> bool:
        return id(tensor) not in self.trace.created

    def _traced(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if name in ("tensor", "as_tensor", "scalar_tensor", "asarray"):
            return self._scalar(args[0], kwargs)
        if name == "full":
            return self._full(args, kwargs)
        if name in LIKE or name == "full_like":
            fill = args[1] if name == "full_like" and len(args) > 1 else kwargs.pop("fill_value", LIKE.get(name))
            return lift(args[0], self.trace).new_full((), fill, dtype=kwargs.get("dtype"))
        if isinstance(func, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
            name = _custom(func, name)
        if name in OPERATORS:
            operator, swapped = OPERATORS[name]
            operands = [lift(arg, self.trace) for arg in args]
            return pointwise(operator, *reversed(operands)) if swapped else pointwise(operator, *operands)
        if func is torch.Tensor.where:
            args = (args[1], args[0], *args[2:])
        known = operation(name)
        if known is not None and not (name in ("max", "min") and (len(args) < 2 or isinstance(args[1], int))):
            named = {_KEYWORDS.get(key, key): self._operand(value) for key, value in kwargs.items() if key != "out"}
            return pointwise(known, *(self._operand(arg) for arg in args), **named)
        if name in METHODS or name in DEFINITE:
            method = DEFINITE.get(name, name)
            return getattr(lift(args[0], self.trace), method)(*args[1:], **kwargs)
        if name in ("__iter__", "unbind"):
            return iter(lift(args[0], self.trace)) if name == "__iter__" else tuple(lift(args[0], self.trace))
        if all(value.number for value in _flat((*args, *kwargs.values())) if type(value) is Traced):
            known = {key: _definite(value) for key, value in kwargs.items()}
            return self._evaluated(func, name, tuple(_definite(arg) for arg in args), known, [])
        raise unsupported(name)

    def _operand(self, value: Any) -> Any:
        return lift(value, self.trace) if isinstance(value, torch.Tensor) else value

    def _scalar(self, value: Any, kwargs: dict[str, Any]) -> Any:
        """`torch.tensor(x)` of a scalar; captured numbers in a list are baked in."""
        if isinstance(value, list | tuple):
            return self._made(torch.tensor(_definite(value), **kwargs))
        return lift(value, self.trace).new_tensor(value, dtype=kwargs.get("dtype"))

    def _full(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        size = args[0] if args else kwargs["size"]
        fill = args[1] if len(args) > 1 else kwargs["fill_value"]
        if tuple(size) == ():
            return lift(fill, self.trace).new_full((), fill, dtype=kwargs.get("dtype"))
        return self._made(torch.full([int(extent) for extent in size], _definite(fill), dtype=kwargs.get("dtype")))

    def _made(self, tensor: torch.Tensor) -> torch.Tensor:
        self.trace.created[id(tensor)] = tensor
        return tensor

    def _evaluated(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], captured: list[torch.Tensor]) -> Any:
        if captured and name in DEFINITE:
            raise DataDependentBranch(f"`{name}` of a captured tensor", remedy="Branch outside, in Python, on which function to pass.")
        result = func(*args, **kwargs)
        tensors = [value for value in _flat((result,)) if isinstance(value, torch.Tensor)]
        if not captured:
            for tensor in tensors:
                self._made(tensor)
            return result
        if not tensors:
            raise TracedConversion(
                f"`{name}` reads data of a captured tensor, which would be frozen into the kernel", remedy="Use the tensor itself."
            )
        storages = {tensor.untyped_storage().data_ptr() for tensor in captured}
        for tensor in tensors:
            if tensor.untyped_storage().data_ptr() not in storages:
                refusal = ReductionInMod if name in REDUCTIONS else UnsupportedOperation
                raise refusal(
                    f"`{name}` computes a new tensor from a captured one during the trace",
                    remedy="Compute it outside and capture the result: inside, it would be computed once and never updated.",
                )
            self.trace.hint(tensor, self.trace.hint_of(captured[0]))
        if (origin := self._origin(func, args, kwargs)) is not None:
            for place, part in enumerate(result) if isinstance(result, list | tuple) else ((None, result),):
                if isinstance(part, torch.Tensor):
                    self.trace.locate(part, origin if place is None else Item(origin, place), self.trace.hint_of(captured[0]))
        return result

    def _told(self, result: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Guard the metadata that was read of a captured tensor."""
        origin = self._origin(func, args, kwargs) if isinstance(result, _TOLD) else None
        if origin is not None:
            self.trace.guard(Guard("equal", origin, result))
        return result

    def _origin(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Origin | None:
        """The origin of the result of a function of captured tensors."""
        given, named = [self._placed(arg) for arg in args], {key: self._placed(value) for key, value in kwargs.items()}
        if getattr(func, "__name__", "") == "__get__":
            return Attribute(given[0], _name(func)) if is_origin(given[0]) else None
        found = called(func, *given, **named)
        return found if parents(found) else None

    def _placed(self, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value):
            return called(_listed, *map(self._placed, value))
        origin = self.trace.origin_of(value) if isinstance(value, torch.Tensor) and type(value) is not Traced else None
        return value if origin is None else origin


_TOLD = (bool, int, str, tuple, torch.dtype, torch.device, torch.layout)


def _listed(*items: Any) -> list[Any]:
    return list(items)


def _plain(value: Any) -> Any:
    """Arguments with proxies of captured lists resolved, which torch would access directly."""
    value = plain(value)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _name(func: Any) -> str:
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__", "__delete__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute if name == "__get__" else f"{attribute}_"
    return name


def _custom(func: Any, name: str) -> str:
    packet = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
    qualified: str = packet._qualified_op_name
    namespace, _, plain = qualified.partition("::")
    if namespace in ("aten", "prims"):
        return plain
    if qualified not in CUSTOM_OPERATORS:
        raise UnsupportedOperation(f"the custom operator {qualified}", remedy="Write it with torch functions that attngen knows.")
    return CUSTOM_OPERATORS[qualified]


def _has_meaning(name: str) -> bool:
    """Whether a function of captured tensors alone is traced: elementwise ones are, so that values and gradients stay current."""
    return name in OPERATORS or name in ROW_OPERATIONS or operation(name) is not None


def _refuse_mutation(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    in_place = name.endswith("_") and not name.endswith("__")
    augmented = name.startswith("__i") and f"__{name[3:]}" in OPERATORS
    if in_place or augmented or name in ("__setitem__", "__delitem__") or kwargs.get("out") is not None:
        raise TracedMutation(f"`{name}` writes into a traced or captured tensor", remedy="Build a new value with torch.where.")


def _definite(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_definite(item) for item in value)
    return value.concrete("a tensor constructor") if type(value) is Traced else value


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) in (list, tuple):
            yield from _flat(value)
        else:
            yield value

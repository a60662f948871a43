"""Turns the numbers a user's function captured into run-time scalars, and notes what the user calls the captured tensors.

The function is rebuilt with the same code and other cells, globals and defaults: a captured int, float or bool becomes a traced
scalar, so that `window = 128` and `window = 256` share a kernel. Functions captured by functions, partials, bound methods and callable
objects are followed. Literals in the code stay constants, and so does a number whose value Python turns out to need (`keep`).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from attngen.errors import RandomInMod
from attngen.frontend.trace import Trace
from attngen.frontend.tracer import Traced

_LEFT_ALONE = frozenset((*sys.stdlib_module_names, "torch", "numpy", "triton"))
_FOLLOWED = ("torch.nn.attention",)
_OWN = "attngen.frontend"


class Lifter:
    """Rebuilds functions for one run of tracing.

    Args:
        trace: receives the numbers and the names of the tensors.
        keep: keys of numbers that stay literals.
    """

    def __init__(self, trace: Trace, keep: frozenset[Hashable] = frozenset()) -> None:
        self._trace = trace
        self._keep = keep
        self._done: dict[int, tuple[Any, Any]] = {}
        self._globals: dict[int, dict[str, Any]] = {}

    def lift(self, value: Any, key: Hashable, hint: str) -> Any:
        """The traced counterpart of a captured value.

        Args:
            value: what was captured.
            key: where it was captured: the same place is the same scalar.
            hint: what the user calls it.
        """
        if type(value) in (bool, int, float):
            return self._number(value, key, hint)
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            return self._number(value.item(), key, hint)
        if isinstance(value, torch.Tensor):
            self._trace.hint(value, hint)
            return value
        if type(value) in (list, tuple):
            return self._sequence(value, hint)
        if id(value) not in self._done:
            self._done[id(value)] = (value, value)  # a function that captures itself finds itself
            self._done[id(value)] = (value, self._callable(value))
        return self._done[id(value)][1]

    def _number(self, value: bool | int | float, key: Hashable, hint: str) -> Any:
        if not isinstance(value, bool | int | float) or key in self._keep:
            return value
        scalar = self._trace.number(key, hint, value)
        return value if scalar is None else Traced(scalar, self._trace, number=True)

    def _sequence(self, values: Any, hint: str) -> Any:
        """Lists stay what they are, with their numbers; only the functions in them are followed."""
        lifted = [
            value if type(value) in (bool, int, float) else self.lift(value, (id(values), position), f"{hint}_{position}")
            for position, value in enumerate(values)
        ]
        return values if all(a is b for a, b in zip(lifted, values, strict=True)) else type(values)(lifted)

    def _callable(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, functools.partial):
            args = (self.lift(arg, (id(value), position), f"argument_{position}") for position, arg in enumerate(value.args))
            keywords = {name: self.lift(arg, (id(value), name), name) for name, arg in value.keywords.items()}
            return functools.partial(self.lift(value.func, (id(value), "func"), "func"), *args, **keywords)
        if isinstance(value, MethodType):
            function = self.lift(value.__func__, (id(value), "func"), "func")
            return MethodType(function, self._object(value.__self__))
        if isinstance(value, ModuleType):
            self._refuse_random(value)
            return value
        if callable(value) and not isinstance(value, type) and isinstance(type(value).__call__, FunctionType):
            return self._callable_object(value)
        return value

    def _refuse_random(self, module: ModuleType) -> None:
        if module.__name__ in ("random", "numpy.random", "secrets"):
            raise RandomInMod(f"the module {module.__name__} in a traced function", remedy="Draw before, and capture a tensor.")

    def _callable_object(self, value: Any) -> Any:
        clone = self._object(value)
        method = "forward" if isinstance(value, torch.nn.Module) else "__call__"
        return value if clone is value else MethodType(self.lift(getattr(type(value), method), (id(type(value)), method), method), clone)

    def _object(self, value: Any) -> Any:
        """A copy whose own attributes are traced; the value itself where it has none that matter."""
        attributes = getattr(value, "__dict__", None)
        if isinstance(value, type | ModuleType) or not attributes:
            return value
        if id(value) in self._done and self._done[id(value)][1] is not value:
            return self._done[id(value)][1]
        try:
            clone = object.__new__(type(value))
        except TypeError:
            return value
        lifted = {name: self.lift(item, (id(value), name), name) for name, item in attributes.items()}
        for table in (attributes.get("_parameters"), attributes.get("_buffers")):
            for name, item in (table or {}).items():
                self.lift(item, (id(table), name), name)
        clone.__dict__.update(lifted)
        return clone

    def _function(self, function: FunctionType) -> Any:
        module = function.__module__ or ""
        root = module.partition(".")[0]
        if module.startswith(_OWN) or (root in _LEFT_ALONE and root != "__main__" and not module.startswith(_FOLLOWED)):
            return function
        own_numbers = not module.startswith(_FOLLOWED)
        code = function.__code__
        cells = tuple(self._cell(cell, name, own_numbers) for cell, name in zip(function.__closure__ or (), code.co_freevars, strict=True))
        rebuilt = FunctionType(
            code,
            self._lifted_globals(function) if own_numbers else function.__globals__,
            function.__name__,
            self._defaults(function) if own_numbers else function.__defaults__,
            cells,
        )
        if function.__kwdefaults__:
            rebuilt.__kwdefaults__ = {name: self.lift(value, (id(function), name), name) for name, value in function.__kwdefaults__.items()}
        rebuilt.__dict__.update(function.__dict__)
        rebuilt.__qualname__ = function.__qualname__
        return rebuilt

    def _defaults(self, function: FunctionType) -> tuple[Any, ...] | None:
        if not function.__defaults__:
            return None
        names = function.__code__.co_varnames[: function.__code__.co_argcount][-len(function.__defaults__) :]
        pairs = zip(names, function.__defaults__, strict=True)
        return tuple(self.lift(value, (id(function), name), name) for name, value in pairs)

    def _cell(self, cell: CellType, name: str, own_numbers: bool) -> CellType:
        if id(cell) not in self._done:
            new = CellType()
            self._done[id(cell)] = (cell, new)
            try:
                content = cell.cell_contents
            except ValueError:  # not assigned yet
                return new
            is_number = type(content) in (bool, int, float)
            new.cell_contents = content if is_number and not own_numbers else self.lift(content, ("cell", id(cell)), name)
        return self._done[id(cell)][1]

    def _lifted_globals(self, function: FunctionType) -> dict[str, Any]:
        original = function.__globals__
        if id(original) not in self._globals:
            self._globals[id(original)] = dict(original)
        lifted = self._globals[id(original)]
        for name in sorted(_global_names(function.__code__)):
            if name in original and lifted[name] is original[name]:
                lifted[name] = self.lift(original[name], (id(original), name), name)
        return lifted


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def name_of(function: Callable[..., Any]) -> str:
    """What to call a spec after a function: its name, without what only Python can read."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "" if name == "<lambda>" else name

"""Turns the numbers a user's function captured into run-time scalars, and notes what the user calls the captured tensors.

The function is rebuilt with the same code and other cells, globals and defaults: a captured int, float or bool becomes a traced
scalar, so that `window = 128` and `window = 256` share a kernel. Functions captured by functions, partials, bound methods and callable
objects are followed. Literals in the code stay constants, and so does a number whose value Python turns out to need (`keep`).
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Hashable
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from attngen.errors import RandomInMod
from attngen.frontend.places import definition
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
        self._objects: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._filled: set[int] = set()
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
            self._done[id(value)] = (value, value)  # an object that holds itself
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
            names = getattr(getattr(value.func, "__code__", None), "co_varnames", ())
            hints = [*names[: len(value.args)], *(f"argument{position}" for position in range(len(names), len(value.args)))]
            args = [self.lift(arg, (id(value), hint), hint) for arg, hint in zip(value.args, hints, strict=True)]
            keywords = {name: self.lift(arg, (id(value), name), name) for name, arg in value.keywords.items()}
            return functools.partial(self.lift(value.func, (id(value), "func"), "func"), *args, **keywords)
        if isinstance(value, MethodType):
            function = self.lift(value.__func__, (id(value), "func"), "func")
            return MethodType(function, self._object(value.__self__))
        if _is_random(value):
            raise RandomInMod(f"random numbers from {_title(value)} in a traced function", remedy="Draw before, and capture a tensor.")
        if isinstance(value, type) or _root(type(value).__module__) in _LEFT_ALONE or not callable(value):
            return value
        return self._callable_object(value)

    def _callable_object(self, value: Any) -> Any:
        clone = self._object(value)
        method = "forward" if isinstance(value, torch.nn.Module) else "__call__"
        return value if clone is value else MethodType(self.lift(getattr(type(value), method), (id(type(value)), method), method), clone)

    def _object(self, value: Any) -> Any:
        """A copy whose own attributes are traced; the value itself where it has none that matter."""
        attributes = getattr(value, "__dict__", None)
        if isinstance(value, type | ModuleType) or not attributes:
            return value
        if id(value) in self._objects:
            return self._objects[id(value)][1]
        try:
            clone = object.__new__(type(value))
        except TypeError:
            return value
        self._objects[id(value)] = (value, clone)
        lifted = {name: self.lift(item, (id(value), name), name) for name, item in attributes.items()}
        for table in (attributes.get("_parameters"), attributes.get("_buffers")):
            for name, item in (table or {}).items():
                self.lift(item, (id(table), name), name)
        clone.__dict__.update(lifted)
        return clone

    def _function(self, function: FunctionType) -> Any:
        module = function.__module__ or ""
        followed = module.startswith(_FOLLOWED)
        if module.startswith(_OWN) or (_root(module) in _LEFT_ALONE and not followed):
            return function
        code = function.__code__
        if _draws_from_numpy(function):
            raise RandomInMod("random numbers from numpy.random in a traced function", loc=definition(code), remedy="Draw before.")
        known = self._globals.get(id(function.__globals__))
        namespace = function.__globals__ if followed else known if known is not None else dict(function.__globals__)
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        rebuilt = FunctionType(code, namespace, function.__name__, function.__defaults__, cells)
        rebuilt.__kwdefaults__ = function.__kwdefaults__
        rebuilt.__dict__.update(function.__dict__)
        rebuilt.__qualname__ = function.__qualname__
        self._done[id(function)] = (function, rebuilt)  # before it is filled, for a function that calls itself
        for cell, name in zip(function.__closure__ or (), code.co_freevars, strict=True):
            self._fill(cell, name, numbers=not followed)
        if not followed:
            self._globals[id(function.__globals__)] = namespace
            self._fill_globals(function, namespace)
            rebuilt.__defaults__ = self._defaults(function)
            rebuilt.__kwdefaults__ = {
                name: self.lift(value, (id(function), name), name) for name, value in (function.__kwdefaults__ or {}).items()
            }
        return rebuilt

    def _defaults(self, function: FunctionType) -> tuple[Any, ...] | None:
        if not function.__defaults__:
            return None
        names = function.__code__.co_varnames[: function.__code__.co_argcount][-len(function.__defaults__) :]
        pairs = zip(names, function.__defaults__, strict=True)
        return tuple(self.lift(value, (id(function), name), name) for name, value in pairs)

    def _cell(self, cell: CellType) -> CellType:
        return self._cells.setdefault(id(cell), (cell, CellType()))[1]

    def _fill(self, cell: CellType, name: str, *, numbers: bool) -> None:
        new = self._cell(cell)
        if id(cell) in self._filled:
            return
        self._filled.add(id(cell))
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return
        is_number = type(content) in (bool, int, float)
        new.cell_contents = content if is_number and not numbers else self.lift(content, ("cell", id(cell)), name)

    def _fill_globals(self, function: FunctionType, namespace: dict[str, Any]) -> None:
        original = function.__globals__
        for name in sorted(_global_names(function.__code__)):
            if name in original and namespace[name] is original[name]:
                namespace[name] = self.lift(original[name], (id(original), name), name)


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_random(value: Any) -> bool:
    """A module, generator or bound method that draws random numbers."""
    owner = getattr(value, "__self__", value)
    if isinstance(owner, ModuleType):
        return owner.__name__ in ("random", "numpy.random", "secrets")
    return isinstance(owner, random.Random) or type(owner).__module__.startswith("numpy.random")


def _draws_from_numpy(function: FunctionType) -> bool:
    names = _global_names(function.__code__)
    modules = (function.__globals__.get(name) for name in names)
    return "random" in names and any(isinstance(module, ModuleType) and module.__name__ == "numpy" for module in modules)


def _title(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def name_of(function: Callable[..., Any]) -> str:
    """What to call a spec after a function: its name, without what only Python can read."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "" if name == "<lambda>" else name

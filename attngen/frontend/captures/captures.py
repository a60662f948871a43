"""Replaces the captures of a user's function by traced counterparts with known origins.

The function is rebuilt with the same code and other cells, globals and defaults: a captured int, float or bool becomes a traced scalar, so
that `window = 128` and `window = 256` share a kernel; an object becomes a proxy that does the same for its attributes and items when they
are read. Captured functions, partials, bound methods and callable objects are rebuilt recursively. Literals in the code stay constants, and
so do numbers whose value Python needs during the trace (`keep`).

Every fact that affects the trace (the type of a number, the function bound to a name, that something is None) becomes a guard.
"""

from __future__ import annotations

import copy
import dis
import enum
import functools
import operator
import random
import sys
import threading
import weakref
from argparse import Namespace
from array import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from attngen.errors import RandomInMod
from attngen.frontend.block_sparse import BlockTable
from attngen.frontend.captures.origins import Attribute, Guard, Item, Origin, called
from attngen.frontend.captures.proxies import State
from attngen.frontend.captures.proxy_classes import Caller, ModuleProxy, Super, is_derivable, proxy, proxy_class
from attngen.frontend.low_rank import LowRank
from attngen.frontend.tracing.trace import Trace
from attngen.frontend.tracing.tracer import Traced
from attngen.frontend.tracing.user_frames import definition

_LEFT_ALONE = frozenset((*sys.stdlib_module_names, "torch", "numpy", "triton"))
_FOLLOWED = ("torch.nn.attention",)
_OWN = "attngen.frontend"
_PLAIN = (type(None), str, bytes, complex, type(Ellipsis), range, slice, torch.dtype, torch.device, torch.Size, torch.layout)
_DATA = (dict, list, tuple, SimpleNamespace, Namespace, UserDict, UserList, ChainMap, torch.nn.Module, BlockTable, LowRank)
"""Classes of Python and of libraries whose objects hold user data."""
_ITEM = operator.methodcaller("item")
_WHOLE = (set, frozenset, deque, array, bytearray)
"""Containers guarded as a whole."""
_CALLED = (weakref.ref, ContextVar, threading.local)


class Lifter:
    """Rebuilds functions for one trace.

    Args:
        trace: receives the numbers, the origins of the tensors, and guards.
        keep: origins of numbers that stay literals.
    """

    def __init__(self, trace: Trace, keep: frozenset[Hashable] = frozenset()) -> None:
        self._trace = trace
        self._keep = keep
        self._at: dict[Origin, Any] = {}
        self._done: dict[int, tuple[Any, Origin, Any]] = {}
        self._classes: dict[type, type | None] = {}
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._filled: set[int] = set()
        self._globals: dict[int, dict[str, Any]] = {}

    def guard(self, guard: Guard) -> None:
        """Record a condition on which the trace depends."""
        self._trace.guard(guard)

    def forget(self, origin: Origin) -> None:
        """Drop the known items of a container that the traced function mutated."""
        for known in [known for known in self._at if isinstance(known, Item) and known.of == origin]:
            del self._at[known]

    def is_traced(self, value: Any) -> bool:
        """Whether a value is traced."""
        return type(value) is Traced

    def lift(self, value: Any, origin: Origin, hint: str) -> Any:
        """The traced counterpart of a captured value.

        Args:
            value: the captured value.
            origin: of the value; one origin gives one scalar.
            hint: the user's name of it.
        """
        if origin not in self._at:
            self._at[origin] = self._counterpart(value, origin, hint)
        return self._at[origin]

    def _counterpart(self, value: Any, origin: Origin, hint: str) -> Any:
        if type(value) is Traced:
            return value  # put there by the traced function
        if type(value) in weakref.ProxyTypes:
            return self.lift(value.__repr__.__self__, Attribute(Attribute(origin, "__repr__"), "__self__"), hint)
        if type(value) in (bool, int, float) or (type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()):
            return self._number(value, origin, hint)
        if isinstance(value, torch.Tensor):
            self._trace.locate(value, origin, hint)
            return value
        if isinstance(value, _PLAIN):
            self.guard(Guard("equal", origin, value))
            return value
        if id(value) in self._done:
            _, other, counterpart = self._done[id(value)]
            if counterpart is value or isinstance(value, FunctionType):
                self._same(value, origin)
            else:
                self.guard(Guard("same", origin, other))
            return counterpart
        self._done[id(value)] = (value, origin, value)  # for an object that contains itself
        self._done[id(value)] = (value, origin, self._object(value, origin, hint))
        return self._done[id(value)][2]

    def _number(self, value: Any, origin: Origin, hint: str) -> Any:
        if type(value) not in (bool, int, float):
            plain, kind = value.item(), type(value)
            if not isinstance(plain, bool | int | float):
                return self._same(value, origin)
            self.guard(Guard("type", origin, kind))
            return self._number(plain, called(_ITEM, origin), hint)
        scalar = None if origin in self._keep else self._trace.number(origin, hint, value)
        if scalar is None:
            self.guard(Guard("equal", origin, value))
            return value
        self.guard(Guard("number", origin, type(value)))
        return Traced(scalar, self._trace, number=True)

    def _same(self, value: Any, origin: Origin) -> Any:
        """The value unchanged, with a guard on its identity."""
        self.guard(Guard("is", origin, value))
        return value

    def _object(self, value: Any, origin: Origin, hint: str) -> Any:
        if isinstance(value, FunctionType):
            self._same(value, origin)
            return self._function(value, origin)
        if isinstance(value, functools.partial):
            self.guard(Guard("type", origin, type(value)))
            return self._partial(value, origin)
        if isinstance(value, MethodType):
            self.guard(Guard("type", origin, type(value)))
            owner = self.lift(value.__self__, Attribute(origin, "__self__"), "self")
            return MethodType(self.lift(value.__func__, Attribute(origin, "__func__"), hint), owner)
        if _is_random(value):
            raise RandomInMod(f"random numbers from {_title(value)} in a traced function", remedy="Draw before, and capture a tensor.")
        if isinstance(value, ModuleType):
            return value if _root(value.__name__) in (*_LEFT_ALONE, "attngen") else ModuleProxy(State(self, value, origin, hint))
        if isinstance(value, _CALLED):
            self.guard(Guard("type", origin, type(value)))
            return Caller(State(self, value, origin, hint))
        if isinstance(value, _WHOLE):
            self.guard(Guard("equal", origin, copy.copy(value)))
            return value
        if isinstance(value, np.ndarray):
            self.guard(Guard("equal", called(_content, origin), _content(value)))
            return value
        if isinstance(value, type):
            alone = _is_left_alone(value.__module__) or not is_derivable(value)
            made = None if alone else self._class(value, origin)
            self._same(value, origin)
            return value if made is None else made
        return self._proxied(value, origin, hint)

    def _partial(self, value: functools.partial[Any], origin: Origin) -> Any:
        names = getattr(getattr(value.func, "__code__", None), "co_varnames", ())
        hints = [*names[: len(value.args)], *(f"argument{position}" for position in range(len(names), len(value.args)))]
        args, keywords = Attribute(origin, "args"), Attribute(origin, "keywords")
        self.guard(Guard("equal", called(len, args), len(value.args)))
        self.guard(Guard("equal", called(tuple, keywords), tuple(value.keywords)))
        given = [self.lift(arg, Item(args, place), hint) for place, (arg, hint) in enumerate(zip(value.args, hints, strict=True))]
        named = {name: self.lift(arg, Item(keywords, name), name) for name, arg in value.keywords.items()}
        return functools.partial(self.lift(value.func, Attribute(origin, "func"), "func"), *given, **named)

    # ---- objects

    def _proxied(self, value: Any, origin: Origin, hint: str) -> Any:
        """A proxy of an object; the object itself where it holds no user data or cannot be proxied."""
        kind = type(value)
        if isinstance(value, enum.Enum) or (_is_left_alone(kind.__module__) and not isinstance(value, (*_DATA, MappingProxyType))):
            return self._same(value, origin)
        made = self._class(dict if kind is MappingProxyType else kind, Attribute(origin, "__class__"))
        if made is None:
            return self._same(value, origin)
        try:
            made_proxy = proxy(made, State(self, value, origin, hint))
        except TypeError:
            return self._same(value, origin)
        self.guard(Guard("type", origin, kind))
        return made_proxy

    def _class(self, kind: type, origin: Origin) -> type | None:
        if kind not in self._classes:
            try:
                self._classes[kind] = proxy_class(kind, self, origin, lambda function: _is_left_alone(function.__module__ or ""))
            except TypeError:
                self._classes[kind] = None
        return self._classes[kind]

    # ---- functions

    def _function(self, function: FunctionType, origin: Origin) -> Any:
        followed = (function.__module__ or "").startswith(_FOLLOWED)
        if _is_left_alone(function.__module__ or ""):
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
        self._done[id(function)] = (function, origin, rebuilt)  # before its cells, for a recursive function
        for place, (cell, name) in enumerate(zip(function.__closure__ or (), code.co_freevars, strict=True)):
            self._fill(cell, Attribute(Item(Attribute(origin, "__closure__"), place), "cell_contents"), name, numbers=not followed)
        if not followed:
            self._globals[id(function.__globals__)] = namespace
            self._fill_globals(function, namespace, origin)
            rebuilt.__defaults__, rebuilt.__kwdefaults__ = self._defaults(function, origin)
        return rebuilt

    def _defaults(self, function: FunctionType, origin: Origin) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
        given = function.__defaults__ or ()
        names = function.__code__.co_varnames[: function.__code__.co_argcount][-len(given) :] if given else ()
        places, named = Attribute(origin, "__defaults__"), Attribute(origin, "__kwdefaults__")
        values = tuple(self.lift(value, Item(places, place), name) for place, (name, value) in enumerate(zip(names, given, strict=True)))
        keywords = {name: self.lift(value, Item(named, name), name) for name, value in (function.__kwdefaults__ or {}).items()}
        return values or None, keywords

    def _cell(self, cell: CellType) -> CellType:
        return self._cells.setdefault(id(cell), (cell, CellType()))[1]

    def _fill(self, cell: CellType, origin: Origin, name: str, *, numbers: bool) -> None:
        new = self._cell(cell)
        if id(cell) in self._filled:
            return
        self._filled.add(id(cell))
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            return
        if name == "__class__":
            new.cell_contents = content
        elif type(content) in (bool, int, float) and not numbers:
            self.guard(Guard("equal", origin, content))
            new.cell_contents = content
        else:
            new.cell_contents = self.lift(content, origin, name)

    def _fill_globals(self, function: FunctionType, namespace: dict[str, Any], origin: Origin) -> None:
        original, names = function.__globals__, _global_names(function.__code__)
        if "super" in names and "super" not in original:
            namespace["super"] = Super
        for name in sorted(names):
            if name in original and namespace[name] is original[name]:
                namespace[name] = self.lift(original[name], Item(Attribute(origin, "__globals__"), name), name)


@functools.lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> frozenset[str]:
    """Globals read by a function or by functions defined in it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return frozenset(names)


def _content(value: Any) -> tuple[object, ...]:
    """The content of an array, whose elements are constants in a trace."""
    return value.dtype.str, value.shape, value.tobytes()


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_left_alone(module: str) -> bool:
    """Whether functions and classes of a Python module are not rebuilt, since they hold no user data."""
    return module.startswith(_OWN) or (_root(module) in _LEFT_ALONE and not module.startswith(_FOLLOWED))


def _is_random(value: Any) -> bool:
    """A module, generator or bound method that draws random numbers."""
    owner = value.__self__ if isinstance(value, MethodType | BuiltinFunctionType) else value
    if isinstance(owner, ModuleType):
        return owner.__name__ in ("random", "numpy.random", "secrets")
    return isinstance(owner, random.Random) or type(owner).__module__.startswith("numpy.random")


def _draws_from_numpy(function: FunctionType) -> bool:
    names = {*function.__code__.co_names, *_global_names(function.__code__)}
    modules = (function.__globals__.get(name) for name in names)
    return "random" in names and any(isinstance(module, ModuleType) and module.__name__ == "numpy" for module in modules)


def _title(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, for naming a spec; "" for a lambda."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "" if name == "<lambda>" else name

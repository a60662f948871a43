"""Proxy classes: one for each class of captured objects, derived from it; and proxies of modules, `super()`, and objects read by calls."""

from __future__ import annotations

import abc
import operator
import sys
import types
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch

from attngen.frontend.captures.origins import Attribute, Origin, called
from attngen.frontend.captures.proxies import (
    MUTATING,
    READING,
    STATE,
    Lifts,
    Mapping,
    Proxy,
    Sequence,
    State,
    asked,
    delegating,
    mutating,
    reading,
    state_of,
    words,
)

_KEPT = words(
    "__new__ __init__ __del__ __getattribute__ __getattr__ __setattr__ __delattr__ __class__ __dict__ __init_subclass__",
    "__subclasshook__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __class_getitem__ __set_name__ __instancecheck__",
    "__subclasscheck__ __prepare__",
)
"""Methods of a class that its proxies do not delegate."""


def proxy_class(kind: type, lifts: Lifts, origin: Origin, is_left_alone: Callable[[FunctionType], bool]) -> type:
    """The proxy class of a type, which is a proxy of the type too.

    Raises:
        TypeError: no class can be derived from it.
    """
    base = Mapping if issubclass(kind, dict) else Sequence if issubclass(kind, list | tuple) else Proxy
    body: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": None}
    if base is not Proxy:
        names = [name for name in READING if hasattr(kind, name) and name not in vars(base)]
        body |= {name: reading(name) for name in names} | {name: mutating(name) for name in MUTATING if hasattr(kind, name)}
    for name in dir(kind):
        if name.startswith("__") and name.endswith("__") and name not in _KEPT:
            function = next((vars(owner)[name] for owner in kind.__mro__ if name in vars(owner)), None)
            if isinstance(function, FunctionType) and not is_left_alone(function):
                body[name] = delegating(name)
    if issubclass(kind, torch.nn.Module):
        body["__call__"] = _called_module
    made: type = type.__new__(_meta(type(kind), lifts, kind, origin), kind.__name__, (base, kind), body)
    return made


def _called_module(self: Any, *args: Any, **keywords: Any) -> Any:
    """`forward`, or the full `__call__` of a module with hooks."""
    state = state_of(self)
    if state.fact(_is_hooked(state.value), _is_hooked, state.origin):
        return torch.nn.Module.__call__(self, *args, **keywords)
    return state.attribute(self, "forward")(*args, **keywords)


def _is_hooked(module: torch.nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _meta(meta: type, lifts: Lifts, kind: type, origin: Origin) -> Any:
    """The metaclass of a proxy class: class attributes have origins too, and methods of its instances are traced."""

    def attribute(cls: Any, name: str) -> Any:
        return type.__getattribute__(cls, name) if name.startswith("__") and name.endswith("__") else of_class(cls, name)

    def of_class(owner: Any, name: str) -> Any:
        raw, found = getattr(kind, name), Attribute(origin, name)
        if isinstance(raw, MethodType) and raw.__self__ is kind:
            return MethodType(lifts.lift(raw.__func__, Attribute(found, "__func__"), name), owner)
        return lifts.lift(raw, found, name)

    def make(cls: Any, *args: Any, **keywords: Any) -> Any:
        if kind.__new__ is not object.__new__ or not isinstance(kind.__init__, FunctionType) or issubclass(kind, torch.nn.Module):
            return kind(*args, **keywords)
        made = object.__new__(kind)
        lifts.lift(kind.__init__, Attribute(origin, "__init__"), "__init__")(made, *args, **keywords)
        return proxy(cls, _Made(lifts, made, origin, kind.__name__))

    body = {
        "__getattribute__": attribute,
        "__call__": make,
        "__instancecheck__": lambda _, value: isinstance(value, kind),
        "__subclasscheck__": lambda _, other: kind in getattr(other, "__mro__", ()),  # abstract classes ask their subclasses
    }
    return type(meta.__name__, (meta,), body)


class _Made(State):
    """An object created by the traced function: its content belongs to the trace, its origin is that of its class."""

    def attribute(self, proxy: Any, name: str) -> Any:
        if name in self.written or name == "__class__":
            return super().attribute(proxy, name)
        raw, kind = getattr(self.value, name), type(self.value)
        if isinstance(raw, MethodType) and raw.__self__ is self.value:
            return MethodType(self.lifts.lift(raw.__func__, Attribute(self.origin, name), name), proxy)
        is_its_own = name in getattr(self.value, "__dict__", ()) or not hasattr(kind, name) or raw is not getattr(kind, name)
        return raw if is_its_own else self.lifts.lift(raw, Attribute(self.origin, name), name)


def is_derivable(kind: type) -> bool:
    """Whether a class can have proxies: not if its metaclass is special, or it is an exception."""
    return type(kind) in (type, abc.ABCMeta) and not issubclass(kind, BaseException)


def proxy(kind: type, state: State) -> Any:
    """A proxy of a class from `proxy_class`.

    Raises:
        TypeError: instances of this type have state outside of Python.
    """
    if issubclass(kind, dict):
        made: Any = dict.__new__(kind)
    elif issubclass(kind, list):
        made = list.__new__(kind)
    elif issubclass(kind, tuple):
        made = tuple.__new__(kind, state.value)
    elif issubclass(kind, types.SimpleNamespace):
        made = types.SimpleNamespace.__new__(kind)
    else:
        made = object.__new__(kind)
    object.__setattr__(made, STATE, state)
    return made


class ModuleProxy(types.ModuleType):
    """A proxy of a user module."""

    def __init__(self, state: State) -> None:
        object.__setattr__(self, STATE, state)

    def __getattribute__(self, name: str) -> Any:
        return state_of(self).attribute(self, name)


class Caller:
    """A proxy of a weak reference, context variable or thread-local, whose content is read again at each call."""

    def __init__(self, state: State) -> None:
        object.__setattr__(self, STATE, state)

    def __getattribute__(self, name: str) -> Any:
        state = state_of(self)
        raw = getattr(state.value, name)
        if getattr(raw, "__self__", None) is not state.value:
            return state.attribute(self, name)
        return lambda *args: state.lifts.lift(raw(*args), called(asked, state.origin, name, *args), state.hint)

    def __call__(self, *args: Any) -> Any:
        state = state_of(self)
        return state.lifts.lift(state.value(*args), called(operator.call, state.origin, *args), state.hint)


class Super:
    """`super()` of a proxy: methods of the base classes are traced too."""

    def __init__(self, *args: Any) -> None:
        if args:
            kind, owner = args
        else:
            frame = sys._getframe(1)
            kind, owner = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
        object.__setattr__(self, STATE, (kind, owner))

    def __getattribute__(self, name: str) -> Any:
        kind, owner = object.__getattribute__(self, STATE)
        if not isinstance(owner, Proxy):
            return getattr(super(kind, owner), name)
        state = state_of(owner)
        raw = getattr(super(kind, state.value), name)
        found = called(getattr, called(super, kind, state.origin), name)
        if isinstance(raw, MethodType) and raw.__self__ is state.value:
            return MethodType(state.lifts.lift(raw.__func__, Attribute(found, "__func__"), name), owner)
        return state.lifts.lift(raw, found, name)

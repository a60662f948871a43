"""Stand-ins for captured objects, containers, classes and modules while a function is traced: what is read through them is known by its
place.

A stand-in is of a class derived from the object's own, so that `isinstance`, methods and operators work as they do, and it has nothing of
its own: every attribute and item is read from the object itself, properties and parametrizations included, and handed to `lift`.
"""

from __future__ import annotations

import abc
import operator
import sys
import types
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, Protocol

import torch

from attngen.errors import TracedMutation
from attngen.frontend.origins import Attribute, Guard, Item, Origin, called

_STATE = "_attngen_state"


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_KEPT = _words(
    "__new__ __init__ __del__ __getattribute__ __getattr__ __setattr__ __delattr__ __class__ __dict__ __init_subclass__",
    "__subclasshook__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __class_getitem__ __set_name__ __instancecheck__",
    "__subclasscheck__ __prepare__",
)
"""Methods of a class that its stand-ins do not take over."""
_MUTATING = _words(
    "append extend insert remove pop popitem clear update setdefault sort reverse __setitem__ __delitem__ __iadd__ __imul__ __ior__"
)
_READING = _words(
    "__add__ __radd__ __mul__ __rmul__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __contains__ __reversed__ __or__ index count copy"
)
_CONTAINED = _READING | _words("__len__ __bool__ __getitem__ __iter__ __repr__ __reduce_ex__ get keys values items")
_DATA = (types.SimpleNamespace,)


class Lifts(Protocol):
    """What turns values into what a traced function sees, and notes what it relies on."""

    def lift(self, value: Any, origin: Origin, hint: str) -> Any: ...

    def guard(self, guard: Guard) -> None: ...

    def forget(self, origin: Origin) -> None: ...


class State:
    """What a stand-in stands for.

    Args:
        lifts: of this run.
        value: the object.
        origin: where it lies.
        hint: what the user calls it.
    """

    def __init__(self, lifts: Lifts, value: Any, origin: Origin, hint: str) -> None:
        self.lifts, self.value, self.origin, self.hint = lifts, value, origin, hint
        self.written: dict[str, Any] = {}

    def attribute(self, proxy: Any, name: str) -> Any:
        if name in self.written:
            return self.written[name]
        if name == "__class__":
            return type(proxy)
        found = Attribute(self.origin, name)
        with torch._C.DisableTorchFunction():
            try:
                raw = getattr(self.value, name)
            except AttributeError:
                self.fact(False, hasattr, self.origin, name)
                raise
        if isinstance(raw, MethodType) and (raw.__self__ is self.value or raw.__self__ is type(self.value)):
            owner = proxy if raw.__self__ is self.value else type(proxy)
            return MethodType(self.lifts.lift(raw.__func__, Attribute(found, "__func__"), name), owner)
        return self.lifts.lift(raw, found, name)

    def item(self, key: Any) -> Any:
        hint = f"{self.hint}_{key}" if isinstance(key, str | int) else self.hint
        return self.lifts.lift(self.value[key], Item(self.origin, key), hint)

    def fact(self, value: Any, function: Callable[..., Any], *args: Any) -> Any:
        """What a function says of the object, from now on relied on."""
        self.lifts.guard(Guard("equal", called(function, *args), value))
        return value


def state_of(proxy: Any) -> State:
    """What a stand-in stands for."""
    found: State = object.__getattribute__(proxy, _STATE)
    return found


class _Proxy:
    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        """Classes that register what is derived from them shall not know of stand-ins."""

    def __getattribute__(self, name: str) -> Any:
        return state_of(self).attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What a traced function writes, it sees; the object stays as it is."""
        state_of(self).written[name] = value

    def __delattr__(self, name: str) -> None:
        raise TracedMutation(f"`del {name}` on a captured object", remedy="Do this outside of the traced function.")


class _Container(_Proxy):
    """Items are read one by one; what needs all of them reads all of them."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        mine = name in _CONTAINED or name in _MUTATING
        return object.__getattribute__(self, name) if mine and not _is_own(type(self), name) else super().__getattribute__(name)

    def __len__(self) -> int:
        state = state_of(self)
        return state.fact(len(state.value), len, state.origin)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, key: Any) -> Any:
        return state_of(self).item(key)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(state_of(self).value)


class _Sequence(_Container):
    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return plain(self)[key] if isinstance(key, slice) else state_of(self).item(operator.index(key))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[position] for position in range(len(self))])


class _Mapping(_Container):
    __slots__ = ()

    def __contains__(self, key: Any) -> bool:
        state = state_of(self)
        return state.fact(key in state.value, operator.contains, state.origin, key)

    def __getitem__(self, key: Any) -> Any:
        state = state_of(self)
        if key not in state.value and not hasattr(type(state.value), "__missing__"):
            state.fact(False, operator.contains, state.origin, key)
        return state.item(key)

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401

    def __iter__(self) -> Iterator[Any]:
        state = state_of(self)
        return iter(state.fact(tuple(state.value), tuple, state.origin))

    def keys(self) -> Any:
        return dict.fromkeys(self).keys()

    def values(self) -> Any:
        return plain(self).values()

    def items(self) -> Any:
        return plain(self).items()


def plain(proxy: Any) -> Any:
    """A list, tuple or dict of what a container holds, each item with its place; anything else as it is."""
    if not isinstance(proxy, _Container):
        return proxy
    if isinstance(proxy, _Mapping):
        return {key: proxy[key] for key in proxy}
    found = [proxy[position] for position in range(len(proxy))]
    return tuple(found) if isinstance(proxy, tuple) else found


def _reading(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return getattr(plain(self), name)(*map(plain, args), **keywords)

    return method


def _mutating(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        state = state_of(self)
        state.lifts.forget(state.origin)
        found = getattr(state.value, name)(*args, **keywords)
        return self if found is state.value else found

    return method


def _delegating(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return state_of(self).attribute(self, name)(*args, **keywords)

    return method


def _called_module(self: Any, *args: Any, **keywords: Any) -> Any:
    """`forward`; with all that is hooked to a module where something is."""
    value = state_of(self).value
    if value._forward_hooks or value._forward_pre_hooks:
        return torch.nn.Module.__call__(self, *args, **keywords)
    return state_of(self).attribute(self, "forward")(*args, **keywords)


def proxy_class(kind: type, lifts: Lifts, origin: Origin, is_left_alone: Callable[[FunctionType], bool]) -> type:
    """The class of stand-ins for objects of a type, which stands for the type itself too.

    Raises:
        TypeError: no class can be derived from it.
    """
    base = _Mapping if issubclass(kind, dict) else _Sequence if issubclass(kind, list | tuple) else _Proxy
    body: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": None}
    if base is not _Proxy:
        names = [name for name in _READING if hasattr(kind, name) and name not in vars(base)]
        body |= {name: _reading(name) for name in names} | {name: _mutating(name) for name in _MUTATING if hasattr(kind, name)}
    for name in dir(kind):
        if name.startswith("__") and name.endswith("__") and name not in _KEPT:
            function = next((vars(owner)[name] for owner in kind.__mro__ if name in vars(owner)), None)
            if isinstance(function, FunctionType) and not is_left_alone(function):
                body[name] = _delegating(name)
    if issubclass(kind, torch.nn.Module):
        body["__call__"] = _called_module
    made: type = type.__new__(_meta(type(kind), lifts, kind, origin), kind.__name__, (base, kind), body)
    return made


def _is_own(kind: type, name: str) -> bool:
    """Whether the user's class has a method of its own for what containers do."""
    return getattr(vars(kind).get(name), "__qualname__", "").startswith(_delegating.__name__)


def _meta(meta: type, lifts: Lifts, kind: type, origin: Origin) -> Any:
    """The type of a class of stand-ins: attributes of the class have places as well, and it makes objects of the class itself."""

    def attribute(cls: Any, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return type.__getattribute__(cls, name)
        raw, found = getattr(kind, name), Attribute(origin, name)
        if isinstance(raw, MethodType) and raw.__self__ is kind:
            return MethodType(lifts.lift(raw.__func__, Attribute(found, "__func__"), name), cls)
        return lifts.lift(raw, found, name)

    body = {
        "__getattribute__": attribute,
        "__call__": lambda _, *args, **keywords: kind(*args, **keywords),
        "__instancecheck__": lambda _, value: isinstance(value, kind),
        "__subclasscheck__": lambda _, other: issubclass(other, kind),
    }
    return type(meta.__name__, (meta,), body)


def is_derivable(kind: type) -> bool:
    """Whether classes of a type are stood in for at all: not those that Python or a library treats by themselves."""
    return type(kind) in (type, abc.ABCMeta) and not issubclass(kind, BaseException)


def proxy(kind: type, state: State) -> Any:
    """A stand-in of a class from `proxy_class`.

    Raises:
        TypeError: objects of this type hold more than Python can see.
    """
    if issubclass(kind, dict):
        made: Any = dict.__new__(kind)
    elif issubclass(kind, list):
        made = list.__new__(kind)
    elif issubclass(kind, tuple):
        made = tuple.__new__(kind, state.value)
    elif issubclass(kind, _DATA):
        made = types.SimpleNamespace.__new__(kind)
    else:
        made = object.__new__(kind)
    object.__setattr__(made, _STATE, state)
    return made


class ModuleProxy(types.ModuleType):
    """Stands for a module of the user's."""

    def __init__(self, state: State) -> None:
        object.__setattr__(self, _STATE, state)

    def __getattribute__(self, name: str) -> Any:
        return state_of(self).attribute(self, name)


class Super:
    """`super()` of a stand-in: methods of the classes above are traced as well."""

    def __init__(self, *args: Any) -> None:
        if args:
            kind, owner = args
        else:
            frame = sys._getframe(1)
            kind, owner = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
        object.__setattr__(self, _STATE, (kind, owner))

    def __getattribute__(self, name: str) -> Any:
        kind, owner = object.__getattribute__(self, _STATE)
        if not isinstance(owner, _Proxy):
            return getattr(super(kind, owner), name)
        state = state_of(owner)
        raw = getattr(super(kind, state.value), name)
        found = called(getattr, called(super, kind, state.origin), name)
        if isinstance(raw, MethodType) and raw.__self__ is state.value:
            return MethodType(state.lifts.lift(raw.__func__, Attribute(found, "__func__"), name), owner)
        return state.lifts.lift(raw, found, name)

"""Proxies of captured objects, containers, classes and modules during a trace: values read through them have known origins.

The class of a proxy is derived from the object's class, so that `isinstance`, methods and operators work unchanged. A proxy has no state of
its own: every attribute and item is read from the object, properties and parametrizations included, and passed to `lift`.
"""

from __future__ import annotations

import operator
import os
import sysconfig
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, Protocol

import torch

from attngen.errors import TracedMutation
from attngen.frontend.captures.origins import Attribute, Guard, Item, Origin, called

STATE = "_attngen_state"


def words(*lines: str) -> frozenset[str]:
    """Names separated by spaces."""
    return frozenset(" ".join(lines).split())


MUTATING = words(
    "append extend insert remove pop popitem clear update setdefault sort reverse __setitem__ __delitem__ __iadd__ __imul__ __ior__"
)
READING = words(
    "__add__ __radd__ __mul__ __rmul__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __contains__ __reversed__ __or__ index count copy"
)
_CONTAINED = READING | words("__len__ __bool__ __getitem__ __iter__ __repr__ __reduce_ex__ get keys values items")


class Lifts(Protocol):
    """Turns values into their traced counterparts, and records guards."""

    def lift(self, value: Any, origin: Origin, hint: str) -> Any: ...

    def guard(self, guard: Guard) -> None: ...

    def forget(self, origin: Origin) -> None: ...

    def is_traced(self, value: Any) -> bool: ...


class State:
    """The state of a proxy.

    Args:
        lifts: of this trace.
        value: the object.
        origin: of the object.
        hint: the user's name of it.
    """

    def __init__(self, lifts: Lifts, value: Any, origin: Origin, hint: str) -> None:
        self.lifts, self.value, self.origin, self.hint = lifts, value, origin, hint
        self.written: dict[str, Any] = {}

    def attribute(self, proxy: Any, name: str) -> Any:
        if name in self.written:
            return self.written[name]
        if name == "__class__":
            return type(proxy)
        if name in ("__copy__", "__deepcopy__"):
            return lambda *_: proxy
        found = Attribute(self.origin, name)
        with torch._C.DisableTorchFunction():
            try:
                raw = getattr(self.value, name)
            except AttributeError:
                self.fact(False, hasattr, self.origin, name)
                raise
        if isinstance(raw, MethodType) and (raw.__self__ is self.value or raw.__self__ is type(self.value)):
            owner = proxy if raw.__self__ is self.value else type(proxy)
            return self._asking(raw, owner, name) if self._is_asked(raw) else self._traced(raw, owner, name)
        return self.lifts.lift(raw, found, name)

    def _traced(self, method: MethodType, owner: Any, name: str) -> MethodType:
        found = Attribute(Attribute(self.origin, name), "__func__")
        return MethodType(self.lifts.lift(method.__func__, found, name), owner)

    def _is_asked(self, method: MethodType) -> bool:
        """Whether a method is of a library object, such as a configuration; its result is read again at each call."""
        return is_of_library(method.__func__) and not isinstance(self.value, torch.nn.Module)

    def _asking(self, method: MethodType, owner: Any, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **keywords: Any) -> Any:
            if any(self.lifts.is_traced(arg) for arg in (*args, *keywords.values())):
                return self._traced(method, owner, name)(*args, **keywords)
            return self.lifts.lift(method(*args, **keywords), called(asked, self.origin, name, *args, **keywords), self.hint)

        return ask

    def item(self, key: Any) -> Any:
        hint = f"{self.hint}_{key}" if isinstance(key, str | int) else self.hint
        return self.lifts.lift(self.value[key], Item(self.origin, key), hint)

    def fact(self, value: Any, function: Callable[..., Any], *args: Any) -> Any:
        """A fact about the object, with a guard on it."""
        self.lifts.guard(Guard("equal", called(function, *args), value))
        return value


def asked(value: Any, name: str, *args: Any, **keywords: Any) -> Any:
    """The result of a method."""
    return getattr(value, name)(*args, **keywords)


def is_of_library(function: Any) -> bool:
    """Whether a function is neither the user's nor of Python, PyTorch or this package."""
    module = getattr(function, "__module__", None) or ""
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    return file.startswith(_LIBRARIES) and module.partition(".")[0] not in ("torch", "attngen")


_LIBRARIES = tuple(sysconfig.get_paths()[name] + os.sep for name in ("purelib", "platlib"))


def state_of(proxy: Any) -> State:
    """The state of a proxy."""
    found: State = object.__getattribute__(proxy, STATE)
    return found


class Proxy:
    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        """Hides proxies from classes that register their subclasses."""

    def __getattribute__(self, name: str) -> Any:
        return state_of(self).attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Writes are visible to the traced function only; the object is unchanged."""
        state_of(self).written[name] = value

    def __delattr__(self, name: str) -> None:
        raise TracedMutation(f"`del {name}` on a captured object", remedy="Delete it outside of the traced function.")


class Container(Proxy):
    """Items are read one by one; operations on the whole container read all of them."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        mine = (name in _CONTAINED or name in MUTATING) and not is_delegated(type(self), name)
        return object.__getattribute__(self, name) if mine else super().__getattribute__(name)

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


class Sequence(Container):
    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return plain(self)[key] if isinstance(key, slice) else state_of(self).item(operator.index(key))

    def __iter__(self) -> Iterator[Any]:
        return iter([self[position] for position in range(len(self))])


class Mapping(Container):
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
    """A list, tuple or dict of a container's items, each with its origin; anything else unchanged."""
    if not isinstance(proxy, Container):
        return proxy
    if isinstance(proxy, Mapping):
        return {key: proxy[key] for key in proxy}
    found = [proxy[position] for position in range(len(proxy))]
    return tuple(found) if isinstance(proxy, tuple) else found


def is_delegated(kind: type, name: str) -> bool:
    """Whether a method of a proxy class delegates to the user's own."""
    return getattr(vars(kind).get(name), "__qualname__", "").startswith(delegating.__name__)


def delegating(name: str) -> Callable[..., Any]:
    """A method that delegates to the user's, traced."""

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return state_of(self).attribute(self, name)(*args, **keywords)

    return method


def reading(name: str) -> Callable[..., Any]:
    """A method of a container that reads all items."""

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return getattr(plain(self), name)(*map(plain, args), **keywords)

    return method


def mutating(name: str) -> Callable[..., Any]:
    """A method that mutates a container: the container itself, as without a trace."""

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        state = state_of(self)
        state.lifts.forget(state.origin)
        found = getattr(state.value, name)(*args, **keywords)
        return self if found is state.value else found

    return method

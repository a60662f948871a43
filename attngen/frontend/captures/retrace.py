"""The tracing record of a spec: the user's objects, the origins read in them, and how to trace again.

A deep copy of a compiled attention reads the copies of its captures: those of a bound method's object, and those of closure variables that
are copied along. A pickled one reads what can be pickled; lambdas and local functions cannot, so that their captures are frozen, except
those in a `torch.nn.Module` that they hold.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

import torch

from attngen.frontend.block_sparse import BlockTable
from attngen.frontend.captures.origins import Attribute, Call, Guard, Item, Origin, Root, is_origin, parents, roots_of
from attngen.frontend.captures.reader import Places, Reader

_BY_NAME = (FunctionType, BuiltinFunctionType, type)
_ATOMIC = (type(None), bool, int, float, complex, str, bytes, type)


class Roots:
    """The user's objects by role; in a deep copy, their copies.

    Functions are copied on first use, after the values of their variables have been copied.
    """

    def __init__(self, given: Mapping[str, Any], memo: dict[int, Any] | None = None) -> None:
        self._given, self._memo = dict(given), memo

    @property
    def objects(self) -> dict[str, Any]:
        memo = self._memo
        if memo is not None:
            self._given = {role: _following(value, memo, {}) for role, value in self._given.items()}
            self._memo = None
        return self._given

    def copied(self, memo: dict[int, Any]) -> Roots:
        """The roots of a deep copy in progress."""
        return Roots({role: _copied(value, memo) for role, value in self.objects.items()}, memo)


@dataclass(frozen=True, slots=True)
class Tracing:
    """The traced objects, and what calls read of them.

    Attributes:
        roots: the user's objects.
        places: origins and guards.
        again: traces other objects, given by role; None if lost by pickling.
        stale: guards were lost by pickling, so that the next call traces again.
    """

    roots: Roots
    places: Places = field(default_factory=Places)
    again: Callable[[Mapping[str, Any]], Any] | None = None
    stale: bool = False

    def reader(self, given: Mapping[str, Any], compiled: bool = False) -> Reader:
        """See `Places.reader`."""
        return _never if self.stale else self.places.reader(self.roots.objects, given, compiled)

    def copied(self, memo: dict[int, Any]) -> Tracing:
        """The record of a deep copy."""
        return replace(self, roots=self.roots.copied(memo))

    def plain(self) -> Tracing:
        """The part that can be pickled."""
        objects = self.roots.objects
        lost = {role for role, value in objects.items() if not _is_importable(value)}
        if not lost:
            stale = not all(map(_is_kept, self.places.guards))
            return Tracing(Roots(objects), again=self.again, stale=True) if stale else replace(self, roots=Roots(objects))
        moved = _Moved(objects, lost)
        origins = ((name, moved.origin(origin)) for name, origin in self.places.origins)
        kept = tuple((name, origin) for name, origin in origins if origin is not None)
        guards = tuple(guard for guard in map(moved.guard, self.places.guards) if guard is not None)
        return Tracing(Roots(moved.roots), Places(kept, guards))


class _Moved:
    """Origins below objects that cannot be pickled, rebased to a `torch.nn.Module` on the path where there is one."""

    def __init__(self, objects: Mapping[str, Any], lost: set[str]) -> None:
        self._objects, self._lost = objects, lost
        self.roots = {role: value for role, value in objects.items() if role not in lost}
        self._modules: dict[int, Root] = {}

    def guard(self, guard: Guard) -> Guard | None:
        origin = self.origin(guard.origin)
        if guard.test == "same" and origin is not None:
            other = self.origin(guard.value)
            return None if other is None else Guard("same", origin, other)
        if origin is None or isinstance(origin, Root) or not _is_kept(guard):
            return None
        return Guard(guard.test, origin, guard.value)

    def origin(self, origin: Origin) -> Origin | None:
        if not roots_of(origin) & self._lost:
            return origin
        value = _value(origin, self._objects)
        if isinstance(value, torch.nn.Module) and _is_importable(type(value)):
            if id(value) not in self._modules:
                self._modules[id(value)] = Root(f"module {len(self._modules)}")
                self.roots[self._modules[id(value)].role] = value
            return self._modules[id(value)]
        match origin:
            case Attribute(of=of, name=name):
                inner = self.origin(of)
                return None if inner is None else Attribute(inner, name)
            case Item(of=of, key=key):
                inner = self.origin(of)
                return None if inner is None else Item(inner, key)
            case Call(args=args, keywords=keywords):
                if any(self.origin(parent) is None for parent in parents(origin)):
                    return None
                return Call(origin.function, tuple(map(self.moved, args)), tuple((name, self.moved(arg)) for name, arg in keywords))
        return None

    def moved(self, arg: Any) -> Any:
        return self.origin(arg) if is_origin(arg) else arg


def _never() -> None:
    return None


def _is_kept(guard: Guard) -> bool:
    """Whether a guard survives pickling: identity does not, except for objects pickled by name."""
    return guard.test in ("equal", "tensor", "same") or (isinstance(guard.value, _BY_NAME) and _is_importable(guard.value))


def _value(origin: Origin, objects: Mapping[str, Any]) -> Any:
    try:
        match origin:
            case Root(role=role):
                return objects[role]
            case Attribute(of=of, name=name):
                return getattr(_value(of, objects), name)
            case Item(of=of, key=key):
                return _value(of, objects)[key]
    except Exception:
        return None
    return None


def _is_importable(value: Any) -> bool:
    """Whether pickle finds a function or class by its name, and likewise all parts of a partial, method or other object."""
    if isinstance(value, _BY_NAME):
        found: Any = sys.modules.get(value.__module__ or "")
        for name in value.__qualname__.split("."):
            found = getattr(found, name, None)
        return found is value
    if isinstance(value, functools.partial):
        return all(map(_is_importable, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, MethodType):
        found = getattr(type(value.__self__), value.__func__.__name__, None)
        return found is value.__func__ and _is_importable(type(value.__self__))
    if isinstance(value, BlockTable):
        return _is_importable(value.mask_mod)
    return isinstance(value, _ATOMIC) or _is_importable(type(value))


# ---- deep copies


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, with functions left for later."""
    if isinstance(value, functools.partial) and id(value) not in memo:
        keywords = {name: _copied(arg, memo) for name, arg in value.keywords.items()}
        return functools.partial(_copied(value.func, memo), *(_copied(arg, memo) for arg in value.args), **keywords)
    if isinstance(value, BlockTable):
        return replace(value, classes=_copied(value.classes, memo), mask_mod=_copied(value.mask_mod, memo))
    if isinstance(value, torch.Tensor) and not value.is_leaf:
        return memo.get(id(value), value)  # PyTorch does not copy non-leaves
    return copy.deepcopy(value, memo)


def _following(value: Any, memo: Mapping[int, Any], done: dict[int, Any]) -> Any:
    """A function with copied variables replaced by their copies; the same function where none was copied."""
    if isinstance(value, functools.partial):
        keywords = {name: _following(arg, memo, done) for name, arg in value.keywords.items()}
        return functools.partial(_following(value.func, memo, done), *(_following(arg, memo, done) for arg in value.args), **keywords)
    if isinstance(value, BlockTable):
        return replace(value, mask_mod=_following(value.mask_mod, memo, done))
    if not isinstance(value, FunctionType):
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value  # for a function that contains itself
    defaults, keywords = value.__defaults__ or (), value.__kwdefaults__ or {}
    cells = tuple(_cell(cell, memo, done) for cell in value.__closure__ or ())
    new_defaults = tuple(_content(item, memo, done) for item in defaults)
    new_keywords = {name: _content(item, memo, done) for name, item in keywords.items()}
    pairs = (*zip(cells, value.__closure__ or (), strict=True), *zip(new_defaults, defaults, strict=True))
    if all(new is old for new, old in (*pairs, *((new_keywords[name], keywords[name]) for name in keywords))):
        return value
    made = FunctionType(value.__code__, value.__globals__, value.__name__, new_defaults or None, cells)
    made.__kwdefaults__ = new_keywords or None
    made.__dict__.update(value.__dict__)
    made.__qualname__, made.__module__ = value.__qualname__, value.__module__
    done[id(value)] = made
    return made


def _cell(cell: CellType, memo: Mapping[int, Any], done: dict[int, Any]) -> CellType:
    """The cell itself, which a user may rebind, unless its content was copied."""
    try:
        content = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    if id(cell) not in done:
        new = _content(content, memo, done)
        done[id(cell)] = cell if new is content else CellType(new)
    return done[id(cell)]


def _content(value: Any, memo: Mapping[int, Any], done: dict[int, Any]) -> Any:
    if isinstance(value, _ATOMIC):
        return value
    if isinstance(value, MethodType) and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    if isinstance(value, tuple | list) and type(value) in (tuple, list) and id(value) not in memo:
        items = [_content(item, memo, done) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)
    return memo[id(value)] if id(value) in memo else _following(value, memo, done)

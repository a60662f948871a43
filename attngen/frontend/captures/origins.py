"""Origins of captured values, which calls read again, and guards, the conditions on which a trace depends.

An origin is a path from a user object (`Root`) by attributes, items and calls. A closure variable is `mod.__closure__[0].cell_contents`, a
global `mod.__globals__["TABLE"]`, a parameter `mod.__self__.bias`, its transpose that path and `.T`. `reader` compiles origins to a
function that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, Union

Origin = Union["Root", "Attribute", "Item", "Call"]
Test = Literal["is", "type", "equal", "number", "tensor", "same"]


@dataclass(frozen=True, slots=True)
class Root:
    """A user object, by its role: "score_mod", "sink"."""

    role: str


@dataclass(frozen=True, slots=True)
class Attribute:
    """`of.name`"""

    of: Origin
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """`of[key]`"""

    of: Origin
    key: Hashable


@dataclass(frozen=True, slots=True)
class Call:
    """`function(*args, **keywords)`, where arguments that are origins stand for their values."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A constant argument of a call that cannot be hashed."""

    value: Any


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on which a trace depends: the trace is valid for a call if all its guards hold.

    Attributes:
        test: "is", the same object; "type", an object of that type; "equal", an equal value of equal type; "number", a number of that
            type; "tensor", a tensor of one of those dtypes and that rank; "same", the same object as at the other origin.
        origin: of the tested value.
        value: what it is compared with.
    """

    test: Test
    origin: Origin
    value: Any = field(compare=False)


def called(function: Callable[..., Any], *args: Any, **keywords: Any) -> Call:
    """A call whose arguments need not be hashable."""
    return Call(function, tuple(map(_held, args)), tuple((name, _held(value)) for name, value in keywords.items()))


def _held(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return Held(value)
    return value


def is_origin(value: object) -> bool:
    """Whether a value is an origin, not a constant."""
    return isinstance(value, Root | Attribute | Item | Call)


def parents(origin: Origin) -> tuple[Origin, ...]:
    """The origins that an origin is read from."""
    match origin:
        case Root():
            return ()
        case Attribute(of=of) | Item(of=of):
            return (of,)
        case Call(args=args, keywords=keywords):
            return tuple(arg for arg in (*args, *(value for _, value in keywords)) if is_origin(arg))


def roots_of(origin: Origin) -> frozenset[str]:
    """The roles of the roots of an origin."""
    if isinstance(origin, Root):
        return frozenset((origin.role,))
    return frozenset().union(*map(roots_of, parents(origin)))

"""Where captured values come from: places that are read again at each call, and what a trace found there and relied on.

A place is a path: from an object that the user gave (`Root`) by attributes, items and calls. A closure's variable is
`mod.__closure__[0].cell_contents`, a global `mod.__globals__["TABLE"]`, a parameter `mod.__self__.bias`, its transpose that and `.T`.
Reading is done by the function that `reader` makes of them; here is what a path is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, Union

Origin = Union["Root", "Attribute", "Item", "Call"]
Test = Literal["is", "type", "equal", "number", "tensor", "same"]


@dataclass(frozen=True, slots=True)
class Root:
    """An object that the user gave, by its role: "score_mod", "sink"."""

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
    """`function(*args, **keywords)`, where arguments that are origins stand for what is read there."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A constant argument of a call that cannot be hashed."""

    value: Any


@dataclass(frozen=True, slots=True)
class Guard:
    """What a trace relied on: it holds for another call as long as this does.

    Attributes:
        test: "is", the very object; "type", an object of that type; "equal", a value of equal type; "number", a number of that type;
            "tensor", a tensor of one of those types and that rank; "same", the very object that lies at the other origin.
        origin: of what is tested.
        value: with what.
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
    """Whether a value is a place, not a constant."""
    return isinstance(value, Root | Attribute | Item | Call)


def parents(origin: Origin) -> tuple[Origin, ...]:
    """The places that one is read from."""
    match origin:
        case Root():
            return ()
        case Attribute(of=of) | Item(of=of):
            return (of,)
        case Call(args=args, keywords=keywords):
            return tuple(arg for arg in (*args, *(value for _, value in keywords)) if is_origin(arg))


def roots_of(origin: Origin) -> frozenset[str]:
    """The roles of the objects that a place is reached from."""
    if isinstance(origin, Root):
        return frozenset((origin.role,))
    return frozenset().union(*map(roots_of, parents(origin)))

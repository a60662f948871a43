"""Axis patterns: "b (g r) m d", one word a dimension, parentheses around the axes of a composite one."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from attngen.errors import AxisError
from attngen.frontend.spec import Pattern

_TOKEN = re.compile(r"\(([\w\s]*)\)|(\w+)|(\S)")


def parse(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        AxisError: something that is no axis name, or an axis named twice.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AxisError(f"axis names expected, got {_shown(text)}", remedy='Write a string of names separated by spaces, as in "b h m d".')
    dims: list[tuple[str, ...]] = []
    for match in _TOKEN.finditer(text):
        if match[3] is not None:
            raise AxisError(f"{match[3]!r} in the pattern {text!r}", remedy='Write axis names separated by spaces, as in "b (g r) m d".')
        dims.append(tuple((match[1] if match[1] is not None else match[2]).split()))
    axes = flat(dims)
    for axis in axes:
        if not (axis.isascii() and axis.isidentifier()) or keyword.iskeyword(axis):
            raise AxisError(f"{axis!r} in the pattern {text!r} is not a legal axis name", remedy="Use letters, digits and underscores.")
    if len(set(axes)) < len(axes) or () in dims:
        raise AxisError(f"the pattern {text!r} repeats an axis or has empty parentheses", remedy="Each axis names one dimension.")
    return tuple(dims)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, int | float | list | tuple | None) else f"a value of type {type(value).__name__}"


def hint(given: Iterable[str], known: Iterable[str]) -> str:
    """A remedy for axes written as in torch.einsum, by single letters without spaces; "" where they are not."""
    known = set(known)
    for axis in given:
        if len(axis) > 1 and axis not in known and set(axis) <= known:
            return f'Axis names are separated by spaces: "{" ".join(axis)}".'
    return ""


def flat(pattern: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The axes of a pattern, without the grouping."""
    return tuple(axis for dim in pattern for axis in dim)


def grouped(axes: tuple[str, ...], signature: Iterable[Pattern]) -> Pattern:
    """Axes as a pattern, with the composite dimensions of the arguments."""
    composites = [dim for pattern in signature for dim in pattern if len(dim) > 1]
    dims: list[tuple[str, ...]] = []
    at = 0
    while at < len(axes):
        dim = next((dim for dim in composites if axes[at : at + len(dim)] == dim), (axes[at],))
        dims.append(dim)
        at += len(dim)
    return tuple(dims)

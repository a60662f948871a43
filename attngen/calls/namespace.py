"""`torch.ops.attngen`: a saved program finds its operators there, also in a process that has not made them yet.

The name of an operator says what it takes and gives, so that such a program loads; it is the call that is refused, with what to import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from attngen.errors import MissingOperator

_TYPES = {"t": "Tensor", "i": "int", "b": "bool"}
_LETTERS = {word: letter for letter, word in _TYPES.items()}
_NAME = re.compile(r"\w+_[0-9a-f]{16}_forward_(?P<values>[tib]+)(?P<results>\d+)")
_PROGRAM = re.compile(r"(?P<program>\w+_[0-9a-f]{16})_(?:forward_[tib]+\d+|backward)")
_EXPECTED: dict[str, Callable[[], object]] = {}
_MISSING: dict[str, Any] = {}
_MAKING: set[str] = set()


def full_name(name: str, values: Sequence[str], results: int) -> str:
    """The name of the forward operator of a program, which says what it is called with and how many tensors it gives."""
    return f"{name}_{''.join(_LETTERS[word] for word in values)}{results}"


def schema(values: Sequence[str], results: int) -> str:
    """As PyTorch writes it."""
    given = ", ".join(f"{word} p{position}" for position, word in enumerate(values))
    return f"({given}) -> {'Tensor' if results == 1 else '(' + ', '.join(['Tensor'] * results) + ')'}"


def expect(program: str, make: Callable[[], object]) -> None:
    """Have the operators of a program made as soon as one of them is named; `make` may be called more than once."""
    _EXPECTED.setdefault(program, make)


def arrived(program: str) -> None:
    """The operators of a program are being made."""
    _EXPECTED.pop(program, None)


@contextmanager
def making(name: str) -> Iterator[None]:
    """While an operator is made, nothing stands in for it."""
    stand_in = _MISSING.pop(name, None)
    if stand_in is not None:
        stand_in._destroy()
        torch.ops.attngen.__dict__.pop(name, None)
    _MAKING.add(name)
    try:
        yield
    finally:
        _MAKING.discard(name)


class _Operators(torch._ops._OpNamespace):  # pyright: ignore[reportPrivateUsage]
    # By which saved programs name an operator.
    __module__ = torch._ops._OpNamespace.__module__  # pyright: ignore[reportPrivateUsage]

    def __getattr__(self, op_name: str) -> Any:
        try:
            return super().__getattr__(op_name)
        except AttributeError:
            if op_name in _MAKING:
                raise
            program = _PROGRAM.fullmatch(op_name)
            if program is not None and program["program"] in _EXPECTED:
                _EXPECTED[program["program"]]()
                return super().__getattr__(op_name)
            found = _NAME.fullmatch(op_name)
            if found is None:
                raise
        _stand_in(op_name, schema([_TYPES[letter] for letter in found["values"]], int(found["results"])))
        return super().__getattr__(op_name)


def _stand_in(op_name: str, types: str) -> None:
    def refuse(*_: object) -> NoReturn:
        raise MissingOperator(
            f"the operator attngen::{op_name} of a saved program was not made in this process",
            remedy="Import the module that makes the variant with attngen.compile(...), as the saving process did, then load the program.",
        )

    with making(op_name):
        library = torch.library.Library("attngen", "FRAGMENT")
        library.define(op_name + types)
        library.impl(op_name, refuse, "CompositeExplicitAutograd")
    _MISSING[op_name] = library


if not isinstance(torch.ops.__dict__.get("attngen"), _Operators):
    torch.ops.__dict__["attngen"] = _Operators("attngen")

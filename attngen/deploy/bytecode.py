"""Compares byte code with its source without unmarshalling it, so that untrusted data never become Python objects.

Marshal data are read as nested tuples of type letters. References are resolved, and file names and string kinds ignored, since these
depend on the process that wrote them; everything else must be equal.
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
import sys
from typing import Any

_HEADER_BYTES = 16
_REFERENCE = 0x80
_NUMBERS_OF_CODE, _OBJECTS_OF_CODE, _FILE_NAME = 5, 8, 5


def is_compiled_from(code: bytes, source: bytes, tag: str, level: int) -> str:
    """What is wrong with the content of a .pyc file, "" if it is what this Python compiles.

    Args:
        code: content of the file. source: text of its module.
        tag: of the Python that wrote it, as in the file name.
        level: of optimisation.
    """
    if tag != sys.implementation.cache_tag or not code.startswith(importlib.util.MAGIC_NUMBER):
        return "is byte code of another Python, which cannot be compared"
    try:
        right = _tree(marshal.dumps(compile(source, "", "exec", dont_inherit=True, optimize=level)))
        same = _tree(code[_HEADER_BYTES:]) == right
    except (ValueError, SyntaxError, RecursionError):
        same = False
    return "" if same else "is not the byte code of its module"


def _tree(data: bytes) -> object:
    reader = _Reader(data)
    found = reader.value()
    if reader.place != len(data):
        raise ValueError("something follows")
    return found


class _Reader:
    """Reads one marshalled value; ValueError where it is malformed, or of a type that module code does not contain."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0
        self.kept: list[object] = []

    def take(self, count: int) -> bytes:
        found = self.data[self.place : self.place + count]
        if count < 0 or len(found) != count:
            raise ValueError("too short")
        self.place += count
        return found

    def number(self) -> int:
        found: int = struct.unpack("<i", self.take(4))[0]
        return found

    def value(self) -> object:
        letter = self.take(1)[0]
        if letter == ord("r"):
            place = self.number()
            if not 0 <= place < len(self.kept):
                raise ValueError("no such reference")
            return self.kept[place]
        if not letter & _REFERENCE:
            return self.content(chr(letter))
        place = len(self.kept)
        self.kept.append(None)
        self.kept[place] = self.content(chr(letter & ~_REFERENCE))
        return self.kept[place]

    def content(self, letter: str) -> tuple[Any, ...]:
        match letter:
            case "N" | "T" | "F" | "." | "S":
                return (letter,)
            case "i":
                return (letter, self.number())
            case "l":
                count = self.number()
                return (letter, count, self.take(2 * abs(count)))
            case "g" | "y":
                return (letter, self.take(8 if letter == "g" else 16))
            case "s":
                return (letter, self.take(self.number()))
            case "u" | "t" | "a" | "A":
                return ("u", self.take(self.number()))
            case "z" | "Z":
                return ("u", self.take(self.take(1)[0]))
            case "(" | ">" | ")":
                count = self.take(1)[0] if letter == ")" else self.number()
                return (letter == ">", *(self.value() for _ in range(count)))
            case "c":
                numbers = self.take(4 * _NUMBERS_OF_CODE)
                objects = [self.value() for _ in range(_OBJECTS_OF_CODE)]
                del objects[_FILE_NAME]
                return (letter, numbers, *objects, self.number(), self.value(), self.value())
            case _:
                raise ValueError(f"no code has {letter!r}")

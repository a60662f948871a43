"""Names of compiled things: sha256 over everything that decides what is emitted and compiled.

Two keys. A *request* key stands for what the user asked, before any algebra, and leads to a manifest with the schedule; a *kernel* key
stands for one emitted kernel. Both cover the code of attngen, its templates and the versions of the tools, so that nothing stale is ever
found. Identities, addresses, paths and times never enter a key.

The bytes that are hashed can be read in one way only: each value is a type letter, its length and its content, floats are written
exactly, names in sorted order. So no two different requests share an encoding.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from attngen.errors import InternalError

# Raise it when the layout of entries or the meaning of a field changes.
FORMAT_VERSION = 1

KeyValue: TypeAlias = "bool | int | float | str | bytes | tuple[KeyValue, ...] | Mapping[str, KeyValue] | None"

# Folders of a wheel that lie inside the package and are no source of attngen: templates have a hash of their own, kernels are products.
_NOT_SOURCE = ("templates", "pregenerated")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What turns a cascade into machine code, besides the cascade, the schedule and the target.

    Attributes:
        attngen, triton, ptxas, torch: versions as their makers spell them; "" where a tool is absent or takes no part.
        templates: hash of the template bundle.
        source: hash of attngen's own code.
        code_knobs: name and value of the knobs that change emitted code (`attngen.knobs.code_knobs`).
    """

    attngen: str
    triton: str
    ptxas: str
    torch: str
    templates: str
    source: str
    code_knobs: tuple[tuple[str, object], ...] = ()


def request_key(text: str, target: str, options: Mapping[str, KeyValue], toolchain: Toolchain) -> str:
    """Key of what a user asked for.

    Args:
        text: the traced cascade as printed, before any pass; captured tensors appear in it by rank, dtype and use.
        target: name of the target.
        options: arguments of the compilation that change its result (dtypes, dims, length class, given schedule, ...).
        toolchain: the tools that would build it.

    Returns:
        64 hexadecimal digits.
    """
    return _digest("request", {"text": text, "target": target, "options": options}, toolchain)


def kernel_key(cascade: str, schedule: str, target: str, toolchain: Toolchain) -> str:
    """Key of one kernel: its canonical cascade and its schedule as printed, for one target and one set of tools.

    Returns:
        64 hexadecimal digits.
    """
    return _digest("kernel", {"cascade": cascade, "schedule": schedule, "target": target}, toolchain)


def folder_hash(folder: Path, suffixes: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> str:
    """Hash over names and contents of the files below `folder`.

    Args:
        folder: an existing folder; where it lies takes no part in the hash.
        suffixes: ends of the names to take; all files without them.
        skip: names of folders directly below `folder` to leave out. Byte code is always left out.

    Returns:
        64 hexadecimal digits.
    """
    contents: dict[str, KeyValue] = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if parts[0] in skip or "__pycache__" in parts or not path.is_file():
            continue
        if not suffixes or path.suffix in suffixes:
            contents["/".join(parts)] = path.read_bytes()
    return hashlib.sha256(encode(contents)).hexdigest()


@functools.cache
def source_hash() -> str:
    """Hash of attngen's own code, the same for a checkout and for a wheel of it. Computed once: running code does not change."""
    return folder_hash(Path(__file__).resolve().parents[1], (".py",), _NOT_SOURCE)


def encode(value: KeyValue) -> bytes:
    """The bytes that stand for `value` and for no other value.

    Raises:
        InternalError: `value` holds something whose text says too little, such as an object or a set.
    """
    match value:
        case None:
            return _tagged(b"n", b"")
        case bool():
            return _tagged(b"b", b"1" if value else b"0")
        case int():
            return _tagged(b"i", str(int(value)).encode())
        case float():
            return _tagged(b"f", float.hex(value).encode())
        case str():
            return _tagged(b"s", str.encode(value, "utf-8", "surrogatepass"))
        case bytes():
            return _tagged(b"y", bytes(value))
        case tuple():
            return _tagged(b"t", b"".join(encode(item) for item in value))
        case Mapping():
            return _tagged(b"m", b"".join(encode(name) + encode(value[name]) for name in sorted(value)))
        case _:
            raise InternalError(f"a value of type {type(value).__name__} has no place in a cache key")


def _tagged(letter: bytes, content: bytes) -> bytes:
    return letter + str(len(content)).encode() + b":" + content


def _digest(kind: str, fields: Mapping[str, KeyValue], toolchain: Toolchain) -> str:
    everything: dict[str, KeyValue] = {
        "format": FORMAT_VERSION,
        "kind": kind,
        "fields": fields,
        "attngen": toolchain.attngen,
        "triton": toolchain.triton,
        "ptxas": toolchain.ptxas,
        "torch": toolchain.torch,
        "templates": toolchain.templates,
        "source": toolchain.source,
        # `encode` refuses what is no KeyValue.
        "code_knobs": cast(KeyValue, toolchain.code_knobs),
    }
    return hashlib.sha256(encode(everything)).hexdigest()

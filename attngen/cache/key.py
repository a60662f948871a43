"""Cache keys: sha256 over everything that affects the emitted and compiled code.

A *request* key identifies the user's request, before any transformation, and leads to a manifest with the schedule; a *kernel* key
identifies one emitted kernel. Both cover the code of attngen, its templates and the tool versions, so that no entry is ever stale.
Identities, addresses, paths and times never enter a key.

The encoding is injective: each value is a type letter, its length and its content, floats exact, names sorted.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from attngen.errors import InternalError

# Raised when the layout of entries or the meaning of a field changes.
FORMAT_VERSION = 1

KeyValue: TypeAlias = "bool | int | float | str | bytes | tuple[KeyValue, ...] | Mapping[str, KeyValue] | None"

# Folders inside the package of a wheel that are not source: templates have their own hash, kernels are outputs.
_NOT_SOURCE = ("templates", "pregenerated")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The tools that turn a cascade into machine code.

    Attributes:
        attngen, triton, ptxas, torch: version strings; "" where a tool is absent or not involved.
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
    """Key of a user's request.

    Args:
        text: the printed traced cascade, before any pass; captured tensors appear in it by rank, dtype and use.
        target: name of the target.
        options: arguments of the compilation that affect its result (dtypes, dims, length class, given schedule, ...).
        toolchain: the tools that build it.

    Returns:
        64 hexadecimal digits.
    """
    return _digest("request", {"text": text, "target": target, "options": options}, toolchain)


def kernel_key(cascade: str, schedule: str, target: str, toolchain: Toolchain) -> str:
    """Key of one kernel: its printed canonical cascade and schedule, for one target and toolchain.

    Returns:
        64 hexadecimal digits.
    """
    return _digest("kernel", {"cascade": cascade, "schedule": schedule, "target": target}, toolchain)


def folder_hash(folder: Path, suffixes: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> str:
    """Hash over names and contents of the files below `folder`.

    Args:
        folder: an existing folder; its location is not hashed.
        suffixes: of the files to include; () for all files.
        skip: names of direct subfolders to exclude. Byte code is always excluded.

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
    """Hash of attngen's own code, the same for a checkout and its wheel. Computed once: running code does not change."""
    return folder_hash(Path(__file__).resolve().parents[1], (".py",), _NOT_SOURCE)


def encode(value: KeyValue) -> bytes:
    """An injective encoding of `value`.

    Raises:
        InternalError: `value` contains something without an encoding, such as an object or a set.
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
        # `encode` refuses values that are no KeyValue.
        "code_knobs": cast(KeyValue, toolchain.code_knobs),
    }
    return hashlib.sha256(encode(everything)).hexdigest()

"""One entry of the cache: a folder of plain files, and `manifest.json` with the size and sha256 of each.

`write_entry` fills a folder that nobody reads yet; `read_entry` believes nothing: every file must be a regular one of the listed size and
hash. The manifest is JSON and so is the metadata; nothing is unpickled or run here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from attngen.errors import InternalError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

MANIFEST = "manifest.json"
SCHEMA = 1

# A manifest lists a few files; more than this is not one of ours.
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


class BadEntry(Exception):
    """An entry on disk is not what its manifest promises. It never leaves `attngen.cache`: such an entry is a miss."""


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What a build produced: file contents by name (plain names, no folders), and any JSON worth keeping beside them."""

    files: Mapping[str, bytes]
    metadata: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete entry, verified when it was read. `files` are the names in `path`, sorted, without the manifest."""

    key: str
    path: Path
    files: tuple[str, ...]
    size_bytes: int
    metadata: Mapping[str, Json]

    def file(self, name: str) -> Path:
        """Path of one of the files."""
        if name not in self.files:
            raise InternalError(f"cache entry {self.key[:12]} has no file {name!r}, it has {', '.join(self.files)}")
        return self.path / name

    def is_there(self) -> bool:
        """False once somebody has cleared the cache under a process that still holds the entry."""
        return (self.path / MANIFEST).is_file()


def write_entry(folder: Path, key: str, artefacts: Artefacts) -> None:
    """Writes all files into the empty `folder`, the manifest last, each down to the disk.

    Raises:
        InternalError: a name is not a plain file name, or the metadata is not JSON.
        OSError: the disk refuses.
    """
    listed: dict[str, Json] = {}
    for name, content in sorted(artefacts.files.items()):
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise InternalError(f"{name!r} cannot be a file of a cache entry")
        listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"schema": SCHEMA, "key": key, "files": listed, "metadata": artefacts.metadata}
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InternalError(f"the metadata of a cache entry is not JSON: {error}") from error
    for name, content in sorted(artefacts.files.items()):
        _write(folder / name, content)
    _write(folder / MANIFEST, text.encode())
    sync_folder(folder)


def read_entry(path: Path, key: str) -> Entry | None:
    """The entry in the folder `path`, or None if there is no such folder.

    Raises:
        BadEntry: something is there, and it is not a complete entry for `key`.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadEntry(str(error)) from error
    if not stat.S_ISDIR(status.st_mode):
        raise BadEntry("it is not a folder")
    try:
        return _read(path, key)
    except (OSError, ValueError, RecursionError) as error:
        raise BadEntry(f"{type(error).__name__}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Brings names in `folder` down to the disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, key: str) -> Entry:
    with os.scandir(path) as inside:
        links = sorted(item.name for item in inside if item.is_symlink())
    if links:
        raise BadEntry(f"{links[0]} is a symbolic link")
    manifest = _mapping(json.loads(_content(path / MANIFEST, None)), "the manifest")
    if manifest.get("schema") != SCHEMA or manifest.get("key") != key:
        raise BadEntry("the manifest is of another schema or another key")
    listed = _mapping(manifest.get("files"), "the list of files")
    size_bytes = 0
    for name in sorted(listed):
        if not _FILE_NAME.fullmatch(name):
            raise BadEntry(f"{name!r} is not a file name")
        expected = _mapping(listed[name], name)
        content = _content(path / name, expected.get("size"))
        if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
            raise BadEntry(f"{name} has another sha256 than the manifest says")
        size_bytes += len(content)
    return Entry(key, path, tuple(sorted(listed)), size_bytes, _mapping(manifest.get("metadata"), "the metadata"))


def _mapping(value: object, what: str) -> dict[str, Json]:
    """JSON objects have text as names, so a dict is enough to ask for."""
    if not isinstance(value, dict):
        raise BadEntry(f"{what} is not a JSON object")
    return cast("dict[str, Json]", value)


def _content(path: Path, size: object) -> bytes:
    """All bytes of a regular file; it is not read when its size is not `size`. None: any size a manifest can have."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadEntry(f"{path.name} is not a regular file")
        if status.st_size != size and not (size is None and status.st_size <= _MAX_MANIFEST_BYTES):
            raise BadEntry(f"{path.name} has {status.st_size} bytes, the manifest says {size}")
        return stream.read()


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())

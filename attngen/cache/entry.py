"""One entry of the cache: a folder of plain files, and `manifest.json` with the size and sha256 of each.

`write_entry` fills a folder before it is published; `read_entry` trusts nothing: folder and files must belong to the user and be writable
by nobody else, and every file must be a regular one of the listed size and hash. An entry holds the verified content; no file is read
twice. Manifest and metadata are JSON; nothing is unpickled or executed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

from attngen.cache.directory import is_own, others_may_write
from attngen.errors import InternalError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

MANIFEST = "manifest.json"
SCHEMA = 1

# A manifest lists a few files; a larger one is not ours.
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


class BadEntry(Exception):
    """An entry on disk does not match its manifest. Never leaves `attngen.cache`: such an entry is a miss."""


@dataclass(frozen=True, slots=True)
class Artefacts:
    """The products of a build: file contents by name (plain names, no folders), and JSON metadata."""

    files: Mapping[str, bytes]
    metadata: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete entry, verified when it was read. `contents` are the files in `path`, by name, without the manifest."""

    key: str
    path: Path
    contents: Mapping[str, bytes] = field(repr=False)
    metadata: Mapping[str, Json]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files, sorted."""
        return tuple(sorted(self.contents))

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(map(len, self.contents.values()))

    def file(self, name: str) -> Path:
        """Path of one of the files, for tracebacks and debuggers; its `content` is what is executed."""
        return self.path / self._known(name)

    def content(self, name: str) -> bytes:
        """The verified content of one of the files, whatever is at its path now."""
        return self.contents[self._known(name)]

    def _known(self, name: str) -> str:
        if name not in self.contents:
            raise InternalError(f"cache entry {self.key[:12]} has no file {name!r}, it has {', '.join(self.files)}")
        return name

    def is_there(self) -> bool:
        """False after the cache was cleared while this process holds the entry."""
        return (self.path / MANIFEST).is_file()


def write_entry(folder: Path, key: str, artefacts: Artefacts) -> None:
    """Writes all files into the empty `folder`, the manifest last, each synced to disk.

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


def read_entry(path: Path, key: str, dir_fd: int | None = None) -> Entry | None:
    """The entry in the folder `path`, or None if there is no such folder.

    Args:
        path: the folder. key: of the entry.
        dir_fd: a descriptor of the folder above, through which the entry is opened.

    Raises:
        BadEntry: it is not a complete entry for `key`, or others could have written it.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path if dir_fd is None else path.name, flags, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadEntry(str(error)) from error
    try:
        _check_owner("it", os.fstat(descriptor))
        return _read(path, key, descriptor)
    except (OSError, ValueError, RecursionError) as error:
        raise BadEntry(f"{type(error).__name__}: {error}") from error
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Syncs the names in `folder` to disk, where the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, key: str, folder: int) -> Entry:
    with os.scandir(folder) as inside:
        links = sorted(item.name for item in inside if item.is_symlink())
    if links:
        raise BadEntry(f"{links[0]} is a symbolic link")
    manifest = _mapping(json.loads(_content(MANIFEST, folder, None)), "the manifest")
    if manifest.get("schema") != SCHEMA or manifest.get("key") != key:
        raise BadEntry("the manifest is of another schema or another key")
    listed = _mapping(manifest.get("files"), "the list of files")
    contents: dict[str, bytes] = {}
    for name in sorted(listed):
        if not _FILE_NAME.fullmatch(name):
            raise BadEntry(f"{name!r} is not a file name")
        expected = _mapping(listed[name], name)
        contents[name] = _content(name, folder, expected.get("size"))
        if hashlib.sha256(contents[name]).hexdigest() != expected.get("sha256"):
            raise BadEntry(f"{name} has another sha256 than the manifest says")
    return Entry(key, path, contents, _mapping(manifest.get("metadata"), "the metadata"))


def _mapping(value: object, what: str) -> dict[str, Json]:
    """The value as a JSON object; its names are text."""
    if not isinstance(value, dict):
        raise BadEntry(f"{what} is not a JSON object")
    return cast("dict[str, Json]", value)


def _content(name: str, folder: int, size: object) -> bytes:
    """The content of a regular file of `size` bytes; None allows any size of a manifest."""
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), dir_fd=folder)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadEntry(f"{name} is not a regular file")
        _check_owner(name, status)
        if status.st_size != size and not (size is None and status.st_size <= _MAX_MANIFEST_BYTES):
            raise BadEntry(f"{name} has {status.st_size} bytes, the manifest says {size}")
        return stream.read()


def _check_owner(what: str, status: os.stat_result) -> None:
    if not is_own(status):
        raise BadEntry(f"{what} belongs to user {status.st_uid}")
    if others_may_write(status):
        raise BadEntry(f"{what} may be written by others, with mode {stat.S_IMODE(status.st_mode):o}")


def _write(path: Path, content: bytes) -> None:
    """Write a file readable by its owner only, whatever the umask."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())

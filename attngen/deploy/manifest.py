"""Reads the manifest of a folder of kernels, and verifies that attngen wrote its files.

Nothing is trusted and nothing is executed: a manifest must have exactly the fields that `write` gives it, each of its type; files must be
regular ones of the listed size and hash, opened without following links; other files are reported. Only then does `generate` replace a
folder, and `check` use its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngen.deploy.bytecode import is_compiled_from
from attngen.deploy.order import MANIFEST, SCHEMA, Order
from attngen.errors import ForeignFolder

BYTE_CODE = "__pycache__"
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_MAX_LENGTH = 2**16
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_FIGURES = ("num_warps", "num_stages", "registers", "spill_bytes", "loop_spill_bytes", "shared_bytes", "shared_bytes_predicted")
_BYTE_CODE_NAME = re.compile(r"(?P<module>\w+)\.(?P<tag>[\w-]+)(?:\.opt-(?P<level>[012]))?\.pyc")


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a folder and what the code emits. `foreign`: attngen did not write this file, or it was changed since."""

    folder: str
    file: str
    problem: str
    lines: tuple[str, ...] = ()
    foreign: bool = False

    def __str__(self) -> str:
        return "\n".join((f"{self.folder}/{self.file}: {self.problem}", *self.lines))


class BadManifest(Exception):
    """A manifest was not written by attngen; the text says why. Never leaves `attngen.deploy`."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A row of the manifest: the tiles of all kernels for one target, dtype and lengths, as text."""

    arch: str
    dtype: str
    lengths: Mapping[str, int]
    tiles: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest. `files` are sizes and hashes by name; `compiled` are the compiled kernels, each as arch, dtype, lengths, role and
    tile."""

    name: str
    spec: str | None
    order: Order
    cascade: tuple[str, ...]
    schedules: tuple[Settled, ...]
    compiled: tuple[tuple[str, str, Mapping[str, int], str, str], ...]
    files: Mapping[str, Mapping[str, object]]


# ---- reading


def read_manifest(folder: Path, name: str | None = None) -> Manifest:
    """The manifest of a folder.

    Args:
        folder: a real folder, not a link.
        name: of the folder, if it was moved aside under another one.

    Raises:
        BadManifest: there is none, or it is not of a folder of this name.
    """
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise BadManifest("is not in a folder, or in a link to one")
        said = json.loads(_content(folder, MANIFEST, _MAX_MANIFEST_BYTES), object_pairs_hook=_once)
        found = _parsed(said)
    except (OSError, ValueError, RecursionError) as error:
        raise BadManifest(f"cannot be read: {type(error).__name__}: {error}") from error
    if found.name != (name or folder.name):
        raise BadManifest(f"is of a folder called {found.name!r}")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadManifest(f"has the field {twice!r} twice")
    return dict(pairs)


def _parsed(said: Any) -> Manifest:
    if type(said) is dict and type(said.get("schema")) is int and said["schema"] != SCHEMA:
        raise BadManifest(f"has schema {said['schema']}, this version writes {SCHEMA}")
    top = _object(said, "", "cascade files name order resources schedules schema spec versions")
    _is(top["schema"], int, "schema", "a number")
    if top["spec"] is not None:
        _is(top["spec"], str, "spec", "text or null")
    for tool, version in _object(top["versions"], "versions", "attngen torch triton").items():
        _is(version, str, f"versions.{tool}", "text")
    return Manifest(
        name=_is(top["name"], str, "name", "text"),
        spec=top["spec"],
        order=_order(_object(top["order"], "order", "arch cubins dtype head_dim")),
        cascade=_texts(top["cascade"], "cascade"),
        schedules=tuple(_settled(row, f"schedules[{i}]") for i, row in enumerate(_list(top["schedules"], "schedules"))),
        compiled=tuple(_compiled(row, f"resources[{i}]") for i, row in enumerate(_list(top["resources"], "resources"))),
        files=_files(top["files"]),
    )


def _order(said: Mapping[str, Any]) -> Order:
    where = "order.head_dim"
    sizes = tuple(tuple(_length(size, where) for size in _list(lengths, where)) for lengths in _list(said["head_dim"], where))
    cubins = _is(said["cubins"], bool, "order.cubins", "true or false")
    return Order(_texts(said["arch"], "order.arch"), _texts(said["dtype"], "order.dtype"), sizes, cubins)


def _settled(said: Any, where: str) -> Settled:
    row = _object(said, where, "arch dtype lengths tiles")
    arch, dtype, tiles = (_is(row[name], str, f"{where}.{name}", "text") for name in ("arch", "dtype", "tiles"))
    return Settled(arch, dtype, _lengths(row["lengths"], where), tiles)


def _compiled(said: Any, where: str) -> tuple[str, str, Mapping[str, int], str, str]:
    row = _object(said, where, f"name role arch dtype lengths tile block_m block_n serialized_wgmma {' '.join(_FIGURES)}")
    for name in (*_FIGURES, *(name for name in ("block_m", "block_n") if row[name] is not None)):
        _is(row[name], int, f"{where}.{name}", "a number")
    _is(row["serialized_wgmma"], bool, f"{where}.serialized_wgmma", "true or false")
    _, arch, dtype, role, tile = (_is(row[name], str, f"{where}.{name}", "text") for name in ("name", "arch", "dtype", "role", "tile"))
    return arch, dtype, _lengths(row["lengths"], where), role, tile


def _files(said: Any) -> dict[str, Mapping[str, object]]:
    found: dict[str, Mapping[str, object]] = {}
    for name, row in _object(said, "files", None).items():
        if not _FILE_NAME.fullmatch(name) or name in (MANIFEST, BYTE_CODE):
            raise BadManifest(f"lists {name[:80]!r}, which is not a legal file name")
        found[name] = entry = _object(row, f"files[{name!r}]", "sha256 size")
        _is(entry["size"], int, f"files[{name!r}].size", "a number")
        if not re.fullmatch("[0-9a-f]{64}", _is(entry["sha256"], str, f"files[{name!r}].sha256", "text")):
            raise BadManifest(f"has no sha256 as files[{name!r}].sha256")
    missing = sorted({"__init__.py", "kernels.py"} - found.keys())
    if missing:
        raise BadManifest(f"lists no {' and no '.join(missing)}")
    return found


def _object(value: Any, where: str, names: str | None) -> dict[str, Any]:
    """A JSON object with exactly these names; any names for None."""
    found: dict[str, Any] = _is(value, dict, where, "an object")
    of = f" in {where}" if where else ""
    if names is not None:
        missing, more = sorted(set(names.split()) - found.keys()), sorted(found.keys() - set(names.split()))
        if missing:
            raise BadManifest(f"lacks {', '.join(missing)}{of}")
        if more:
            raise BadManifest(f"has fields that attngen does not write{of}: {', '.join(repr(name[:80]) for name in more)}")
    return found


def _list(value: Any, where: str) -> list[Any]:
    found: list[Any] = _is(value, list, where, "a list")
    if not found:
        raise BadManifest(f"has an empty list as {where}")
    return found


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_is(item, str, where, "a list of texts") for item in _list(value, where))


def _lengths(value: Any, where: str) -> dict[str, int]:
    return {axis: _length(size, f"{where}.lengths") for axis, size in _object(value, f"{where}.lengths", None).items()}


def _length(value: Any, where: str) -> int:
    if not 1 <= _is(value, int, where, "lengths") <= _MAX_LENGTH:
        raise BadManifest(f"has a length of {value} in {where}")
    return value


def _is(value: Any, kind: type, where: str, what: str) -> Any:
    """The value, checked by exact type, since True is an int."""
    if type(value) is not kind:
        names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}
        got = names.get(type(value), "null")
        raise BadManifest(f"has {got} as {where}, which is {what}" if where else f"is {got}, not {what}")
    return value


# ---- files of a folder


def foreign_files(folder: Path, manifest: Manifest) -> tuple[Difference, ...]:
    """Files of the manifest that are missing or changed, and files that it does not list."""
    found: list[Difference] = []
    kinds = _kinds(folder)
    for file, expected in sorted(manifest.files.items()):
        problem = _file_problem(folder, file, kinds.get(file), expected)
        if problem:
            found.append(Difference(folder.name, file, problem, foreign=file in kinds))
    for file in sorted(kinds.keys() - {*manifest.files, MANIFEST}):
        if file == BYTE_CODE and kinds[file] == "a folder":
            found += _of_byte_code(folder, manifest)
        else:
            found.append(Difference(folder.name, file, "is not in the manifest", foreign=True))
    return tuple(found)


def _file_problem(folder: Path, file: str, kind: str | None, expected: Mapping[str, object]) -> str:
    if kind != "a file":
        return "is missing" if kind is None else f"is {kind}, not a file"
    try:
        content = _content(folder, file, int(str(expected["size"])))
    except OSError as error:
        return f"was changed: {error}"
    changed = len(content) != expected["size"] or hashlib.sha256(content).hexdigest() != expected["sha256"]
    return "was changed: its hash is not that of the manifest" if changed else ""


def _of_byte_code(folder: Path, manifest: Manifest) -> Iterable[Difference]:
    """Files in the byte code folder that belong to no module; Python writes byte code on import, and runs it in place of the module."""
    for file, kind in sorted(_kinds(folder / BYTE_CODE).items()):
        match = _BYTE_CODE_NAME.fullmatch(file)
        if kind != "a file" or match is None or f"{match['module']}.py" not in manifest.files:
            yield Difference(folder.name, f"{BYTE_CODE}/{file}", "is not byte code of a module of the folder", foreign=True)


def planted_byte_code(folder: Path, manifest: Manifest) -> tuple[Difference, ...]:
    """Byte code that differs from what Python compiles from its module, or cannot be compared with it."""
    found: list[Difference] = []
    for file, kind in sorted(_kinds(folder / BYTE_CODE).items()):
        match = _BYTE_CODE_NAME.fullmatch(file)
        if kind != "a file" or match is None or f"{match['module']}.py" not in manifest.files:
            continue
        problem = ""
        try:
            source, code = (_content(folder, f"{match['module']}.py"), _content(folder / BYTE_CODE, file))
            problem = is_compiled_from(code, source, match["tag"], int(match["level"] or 0))
        except OSError as error:
            problem = f"cannot be read: {error}"
        if problem:
            remedy = f"{problem}, and Python may run it in place of {match['module']}.py; remove {BYTE_CODE}"
            found.append(Difference(folder.name, f"{BYTE_CODE}/{file}", remedy))
    return tuple(found)


def _kinds(folder: Path) -> dict[str, str]:
    """Kinds of the entries of a folder by name; nothing if it is not a real folder."""
    tests: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
    )
    if not (folder.is_dir() and not folder.is_symlink()):
        return {}
    modes = {path.name: os.lstat(path).st_mode for path in folder.iterdir()}
    return {name: next((kind for test, kind in tests if test(mode)), "something special") for name, mode in modes.items()}


def _content(folder: Path, file: str, limit: int = _MAX_MANIFEST_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it is not a regular file, or longer.
    """
    descriptor = os.open(folder / file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{file} is not a regular file")
        if status.st_size > limit:
            raise OSError(f"{file} has {status.st_size} bytes, more than {limit}")
        return stream.read()


# ---- folders that may be replaced


def written_files(folder: Path, name: str | None = None) -> tuple[Path, ...]:
    """All files of a folder that holds only files of attngen and their byte code.

    Args:
        folder: an existing folder.
        name: its name, if it was moved aside under another one.

    Raises:
        ForeignFolder: attngen did not write it, or it holds other files.
    """
    shown = folder if name is None else folder.with_name(name)
    try:
        manifest = read_manifest(folder, name)
    except BadManifest as problem:
        said = f"its {MANIFEST} {problem}" if os.path.lexists(folder / MANIFEST) else f"it has no {MANIFEST}"
        raise ForeignFolder(
            f"{shown} exists and was not written by attngen: {said}", remedy="Choose another name, or remove it yourself."
        ) from None
    others = [item for item in foreign_files(folder, manifest) if item.foreign]
    if others:
        raise ForeignFolder(
            f"{shown} holds files that attngen did not write: " + "; ".join(f"{item.file} {item.problem}" for item in others),
            remedy="attngen only replaces its own files. Move these away, choose another name, or remove the folder yourself.",
        )
    own = [file for file in (*manifest.files, MANIFEST) if file in _kinds(folder)]
    return (*(folder / BYTE_CODE / file for file in _kinds(folder / BYTE_CODE)), *(folder / file for file in own))

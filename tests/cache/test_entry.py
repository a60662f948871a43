"""An entry is read back whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from attngen.cache.entry import MANIFEST, Artefacts, BadEntry, read_entry, write_entry
from attngen.errors import InternalError

KEY = "a" * 64
ARTEFACTS = Artefacts(
    {"kernel.py": b"x = 1\n", "kernel.cubin": bytes(range(256))}, {"registers": 128, "name": "causal", "tiles": [64, 128]}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / KEY
    folder.mkdir()
    write_entry(folder, KEY, ARTEFACTS)
    return folder


def test_what_was_written_is_read(folder: Path) -> None:
    entry = read_entry(folder, KEY)
    assert entry is not None
    assert entry.files == ("kernel.cubin", "kernel.py")
    assert {name: entry.file(name).read_bytes() for name in entry.files} == ARTEFACTS.files
    assert entry.contents == ARTEFACTS.files
    assert entry.content("kernel.py") == b"x = 1\n"
    assert entry.metadata == ARTEFACTS.metadata
    assert entry.size_bytes == 262
    assert entry.is_there()
    with pytest.raises(InternalError):
        entry.file("kernel.ptx")


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert read_entry(tmp_path / KEY, KEY) is None


@pytest.mark.parametrize("name", ["kernel.py", "kernel.cubin", MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "flipped", "link", "folder", "pipe"])
def test_every_damage_is_seen(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "truncated":
            path.write_bytes(content[:-1])
        case "empty":
            path.write_bytes(b"")
        case "longer":
            path.write_bytes(content + b"}")
        case "flipped":
            path.write_bytes(content[:2] + bytes([content[2] ^ 1]) + content[3:])
        case "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
    with pytest.raises(BadEntry):
        read_entry(folder, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 0},
        {"schema": "1"},
        {"key": "b" * 64},
        {"files": None},
        {"files": ["kernel.py"]},
        {"files": {"kernel.py": None}},
        {"files": {"kernel.py": {}}},
        {"files": {"kernel.py": {"size": None, "sha256": "0"}}},
        {"files": {"../kernel.py": {"size": 6, "sha256": "0"}}},
        {"metadata": 3},
    ],
)
def test_a_manifest_must_be_ours(folder: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(BadEntry):
        read_entry(folder, KEY)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "\xff", "[" * 100_000, '"\\ud800"'])
def test_a_manifest_must_be_an_object(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(BadEntry):
        read_entry(folder, KEY)


def test_a_link_beside_the_files_is_refused(folder: Path) -> None:
    (folder / "extra").symlink_to(folder / "kernel.py")
    with pytest.raises(BadEntry):
        read_entry(folder, KEY)


def test_a_linked_entry_is_refused(folder: Path) -> None:
    other = folder.with_name("b" * 64)
    other.symlink_to(folder)
    with pytest.raises(BadEntry):
        read_entry(other, KEY)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", MANIFEST, "a\nb", "x" * 300])
def test_file_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError):
        write_entry(tmp_path, KEY, Artefacts({name: b""}, {}))


@pytest.mark.parametrize("value", [float("nan"), b"bytes", {1, 2}])
def test_metadata_is_json(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InternalError):
        write_entry(tmp_path, KEY, Artefacts({}, {"x": value}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "kernel.py", MANIFEST])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722, 0o1777])
def test_what_others_may_write_is_refused(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    with pytest.raises(BadEntry, match="may be written by others"):
        read_entry(folder, KEY)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", [".", "kernel.cubin", MANIFEST])
def test_what_belongs_to_others_is_refused(folder: Path, name: str) -> None:
    os.chown(folder / name, 65534, -1)
    with pytest.raises(BadEntry, match="belongs to user 65534"):
        read_entry(folder, KEY)


def test_files_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        write_entry(tmp_path, KEY, ARTEFACTS)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_an_entry_is_read_from_the_folder_that_is_held(folder: Path) -> None:
    """Another folder that has taken the name is not looked at."""
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        folder.parent.rename(folder.parent.with_name("aside"))
        folder.mkdir(parents=True)
        (folder / "kernel.py").write_text("theirs")
        entry = read_entry(folder, KEY, descriptor)
    finally:
        os.close(descriptor)
    assert entry is not None and entry.contents == ARTEFACTS.files

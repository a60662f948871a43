"""A folder that others could write to is refused; one that cannot be had is None."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from attngen.cache.directory import cache_base, check_directory, held_directory, prepare_directory
from attngen.errors import CacheError, UnsafeCacheDirectory

FOREIGN_USER = 65534
AS_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


def test_folders_are_made_for_their_owner_only(tmp_path: Path) -> None:
    made = prepare_directory(tmp_path / "new" / "cache", "0.1.0", "cp311-triton3.6.0")
    assert made == tmp_path / "new" / "cache" / "0.1.0" / "cp311-triton3.6.0"
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, made.parent.parent)] == [0o700] * 3
    assert prepare_directory(tmp_path / "new" / "cache", "0.1.0", "cp311-triton3.6.0") == made


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o770, 0o720, 0o702, 0o1777])
def test_others_may_not_write(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(folder)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(folder, "0.1.0")


def test_others_may_read(folder: Path) -> None:
    folder.chmod(0o755)
    assert prepare_directory(folder) == folder


@pytest.mark.parametrize("level", ["base", "version", "abi"])
def test_each_level_is_checked(folder: Path, level: str) -> None:
    made = prepare_directory(folder, "0.1.0", "cp311")
    assert made is not None
    {"base": folder, "version": made.parent, "abi": made}[level].chmod(0o777)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(folder, "0.1.0", "cp311")


@pytest.mark.parametrize("level", [0, 1])
def test_a_link_is_refused(tmp_path: Path, folder: Path, level: int) -> None:
    link = (tmp_path / "link", folder / "0.1.0")[level]
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link.symlink_to(target)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory((link, folder)[level], "0.1.0")


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(tmp_path / "link")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(tmp_path / "file")


@AS_ROOT
def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    os.chown(folder, FOREIGN_USER, -1)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(folder)


def test_the_owner_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: FOREIGN_USER)
    if folder.stat().st_uid == 0:
        check_directory(folder)
    else:
        with pytest.raises(UnsafeCacheDirectory):
            check_directory(folder)


def test_a_parent_open_to_everybody_is_refused_unless_sticky(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    shared.chmod(0o777)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(shared / "mine" / "cache")
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(shared / "cache")
    shared.chmod(0o1777)
    assert prepare_directory(shared / "mine" / "cache") is not None


@AS_ROOT
@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o700])
@pytest.mark.parametrize("level", [1, 2])
def test_a_folder_below_one_of_somebody_else_is_refused(tmp_path: Path, mode: int, level: int) -> None:
    """Whoever owns the folder above puts another one in its place, sticky or not."""
    folder = tmp_path / "theirs" / "between" / "cache"
    folder.mkdir(parents=True, mode=0o700)
    folder.parents[level].chmod(mode)
    os.chown(folder.parents[level - 1], FOREIGN_USER, -1)
    with pytest.raises(UnsafeCacheDirectory, match=f"belongs to user {FOREIGN_USER}"):
        prepare_directory(folder)
    with pytest.raises(UnsafeCacheDirectory), held_directory(folder):
        pass


@pytest.mark.parametrize("mode", [0o770, 0o775, 0o2775, 0o720])
def test_a_parent_open_to_a_group_is_refused_unless_sticky(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    (shared / "cache").mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(shared, -1, FOREIGN_USER)
    shared.chmod(mode)
    if shared.stat().st_gid == FOREIGN_USER:
        with pytest.raises(UnsafeCacheDirectory):
            prepare_directory(shared / "cache")
    shared.chmod(mode | 0o1000)
    assert prepare_directory(shared / "cache") is not None


class Group:
    """What `grp` and `pwd` know, in the place of both."""

    def __init__(self, group: str, members: list[str], user: str = "ada") -> None:
        self.gr_name, self.gr_mem, self.pw_name = group, members, user

    def getgrgid(self, _: int) -> Group:
        return self

    def getpwuid(self, _: int) -> Group:
        return self


@AS_ROOT
@pytest.mark.parametrize(
    ("group", "members", "good"), [("ada", [], True), ("ada", ["ada"], True), ("staff", [], False), ("ada", ["eve"], False)]
)
def test_the_private_group_of_a_user_is_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: list[str], good: bool
) -> None:
    """Systems that give each user a group of its own leave home folders open to it."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, -1, 4321)
    home.chmod(0o775)
    monkeypatch.setattr(os, "getegid", lambda: 4321)
    for module in ("grp", "pwd"):
        monkeypatch.setitem(sys.modules, module, Group(group, members))
    if good:
        assert prepare_directory(home / "cache") is not None
        home.chmod(0o777)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(home / "cache")


@AS_ROOT
def test_a_link_of_somebody_else_above_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "cache").mkdir(parents=True, mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert prepare_directory(link / "cache") is not None
    os.chown(link, FOREIGN_USER, -1, follow_symlinks=False)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(link / "cache")


def test_a_link_above_into_an_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open" / "real" / "cache").mkdir(parents=True, mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "open" / "real")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnsafeCacheDirectory):
        prepare_directory(tmp_path / "link" / "cache")


def test_folders_above_that_are_missing_are_made_for_their_owner(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        made = prepare_directory(tmp_path / "new" / "deep" / "cache")
    finally:
        os.umask(before)
    assert made is not None
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, made.parent.parent)] == [0o700] * 3


def test_a_held_folder_stays_the_one_that_was_checked(folder: Path) -> None:
    (folder / "mine").touch()
    with held_directory(folder) as descriptor:
        folder.rename(folder.with_name("aside"))
        folder.mkdir()
        with os.scandir(descriptor) as inside:
            assert [item.name for item in inside] == ["mine"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", refuse)
    assert prepare_directory(tmp_path / "new") is None


@pytest.mark.parametrize("part", ["..", ".hidden", "a/b", "", "a b", "é"])
def test_parts_are_plain_names(folder: Path, part: str) -> None:
    with pytest.raises(CacheError):
        prepare_directory(folder, part)


def test_the_knob_overrides_the_usual_place(tmp_path: Path) -> None:
    assert cache_base(tmp_path) == tmp_path
    assert cache_base().name == "attngen"


def test_a_named_folder_needs_no_platformdirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert cache_base(tmp_path) == tmp_path
    with pytest.raises(ImportError):
        cache_base()

"""The folder of the cache: where it is, and whether what lies in it may be run.

Code is loaded from this folder, so it must belong to the user (or to root, who needs no cache to run code) and nobody else may write to
it. The check looks at the folder itself, not at where a link leads, and never repairs anything: a folder that others could write to may
already hold what they wrote.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from attngen.errors import CacheError, UnsafeCacheDirectory


def cache_base(override: Path | None = None) -> Path:
    """The folder above all caches of this user: `override` (the knob `cache_dir`), or the usual place of the platform."""
    if override is not None:
        return override
    # Only here, so that machines that name a folder need no platformdirs.
    import platformdirs

    return Path(platformdirs.user_cache_dir("attngen", appauthor=False))


def prepare_directory(base: Path, *parts: str) -> Path | None:
    """Creates `base/parts[0]/parts[1]/...`, readable by its owner only, and checks each of these folders.

    Args:
        base: the folder above all caches; folders above it are only checked not to be open to everybody.
        parts: plain names, such as a version.

    Returns:
        The innermost folder, or None where it does not exist and cannot be created.

    Raises:
        UnsafeCacheDirectory: somebody else could write into one of the folders.
        CacheError: a part is no plain name.
    """
    folder = Path(os.path.abspath(base))  # noqa: PTH100  Path.resolve would follow the very links that are refused below
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_above(folder)
        _make_and_check(folder)
        for part in parts:
            if not _is_plain(part):
                raise CacheError(f"{part!r} is not the name of a cache folder")
            folder = folder / part
            _make_and_check(folder)
    except CacheError:
        raise
    except OSError:
        return None
    return folder


def check_directory(folder: Path) -> None:
    """Refuses a folder into which anybody but its owner could write, or that somebody else owns.

    Raises:
        UnsafeCacheDirectory: the folder is no real folder, or others could write into it.
        OSError: the folder cannot be looked at.
    """
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        raise _unsafe(folder, "is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise _unsafe(folder, "is not a folder")
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), 0):
        raise _unsafe(folder, f"belongs to user {status.st_uid}")
    if status.st_mode & 0o022:
        raise _unsafe(folder, f"may be written by others (mode {stat.S_IMODE(status.st_mode):o})")


def _make_and_check(folder: Path) -> None:
    try:
        os.mkdir(folder, 0o700)  # noqa: PTH102  tests replace this one call to stand for a read-only file system
    except FileExistsError:
        pass
    except OSError:
        if not folder.is_dir():
            raise
    check_directory(folder)


def _check_above(folder: Path) -> None:
    """In a folder that everybody may write to, without the sticky bit, anybody could replace ours."""
    for parent in folder.parent.resolve().parents:
        _check_parent(parent)
    _check_parent(folder.parent.resolve())


def _check_parent(parent: Path) -> None:
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise _unsafe(parent, "may be written by everybody and has no sticky bit")


def _is_plain(name: str) -> bool:
    return name.isascii() and not name.startswith(".") and name != "" and all(letter.isalnum() or letter in "._+-" for letter in name)


def _unsafe(folder: Path, why: str) -> UnsafeCacheDirectory:
    return UnsafeCacheDirectory(
        f"{folder} {why}, so that code of others could be loaded from it",
        remedy="Give it to yourself alone (chown, chmod 700), or name another folder in ATTNGEN_CACHE_DIR.",
    )

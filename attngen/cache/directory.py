"""The folder of the cache: its location, and whether code in it may be executed.

Code is loaded from this folder, so it must belong to the user (or to root, who needs no cache to run code) and be writable by nobody else.
Whoever can write to a parent folder can replace it, so the same holds up to the root of the file system; a folder with the sticky bit, such
as /tmp, may be open to everybody, since its entries stay with their owners. The check looks at the folder itself, not at the target of a
link, and never repairs anything: a folder that others could write to may already hold their files.

Folders are checked again at every read: `held_directory` gives a descriptor of the checked folder, and reads through it come from there
even if the name is replaced.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from attngen.errors import CacheError, UnsafeCacheDirectory


def cache_base(override: Path | None = None) -> Path:
    """The parent folder of all caches of this user: `override` (the knob `cache_dir`), or the platform's default."""
    if override is not None:
        return override
    # Imported here, so that platformdirs is not needed with an override.
    import platformdirs

    return Path(platformdirs.user_cache_dir("attngen", appauthor=False))


def prepare_directory(base: Path, *parts: str) -> Path | None:
    """Creates `base/parts[0]/parts[1]/...`, readable by its owner only, and checks each of these folders and those above.

    Args:
        base: the parent folder of all caches.
        parts: plain names, such as a version.

    Returns:
        The innermost folder, or None where it does not exist and cannot be created.

    Raises:
        UnsafeCacheDirectory: somebody else could write into one of the folders, or replace it.
        CacheError: a part is no plain name.
    """
    folder = Path(os.path.abspath(base))  # noqa: PTH100  Path.resolve would follow the very links that are refused below
    try:
        for above in reversed(folder.parents):
            if not above.exists():
                os.mkdir(above, 0o700)  # noqa: PTH102  see _make_and_check
        check_above(folder)
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
    """Refuses a folder that others own or could write to.

    Raises:
        UnsafeCacheDirectory: it is not a real folder, or others could write into it.
        OSError: the folder cannot be inspected.
    """
    _check(folder, os.lstat(folder))


@contextmanager
def held_directory(folder: Path) -> Generator[int, None, None]:
    """A descriptor of a folder, checked with all its parents.

    Raises:
        UnsafeCacheDirectory: as `check_directory`, or somebody else could replace the folder.
        OSError: the folder cannot be opened.
    """
    check_above(folder)
    check_directory(folder)
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    try:
        # The opened folder may differ from the one inspected.
        _check(folder, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def check_above(folder: Path) -> None:
    """Refuses a folder that somebody else could replace: another user owns a parent folder or, without the sticky bit, may write to it.
    Checks the parents of the name and of the targets of its links, so that links cannot be redirected.

    Raises:
        UnsafeCacheDirectory: naming the parent folder.
        OSError: one of them cannot be inspected.
    """
    for above in dict.fromkeys((*folder.parents, folder.parent.resolve(), *folder.parent.resolve().parents)):
        if not is_own(os.lstat(above)):
            raise _unsafe(above, f"belongs to user {os.lstat(above).st_uid}")
        status = above.stat()
        if not is_own(status):
            raise _unsafe(above, f"belongs to user {status.st_uid}")
        if others_may_write(status) and not status.st_mode & stat.S_ISVTX and not _of_own_group(status):
            raise _unsafe(above, f"may be written by others (mode {stat.S_IMODE(status.st_mode):o}) and has no sticky bit")


def is_own(status: os.stat_result) -> bool:
    """Whether a file belongs to the user of this process, or to root."""
    return not hasattr(os, "geteuid") or status.st_uid in (os.geteuid(), 0)


def others_may_write(status: os.stat_result) -> bool:
    """Whether the mode of a file lets a group or everybody write."""
    return bool(status.st_mode & 0o022)


def _of_own_group(status: os.stat_result) -> bool:
    """Whether a folder is writable only by its group, which is the user's private group.

    Group 0 is not private: containers that run under arbitrary users put all of them into it.
    """
    if status.st_mode & stat.S_IWOTH or status.st_gid == 0 or status.st_gid != os.getegid():
        return False
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _check(folder: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _unsafe(folder, "is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise _unsafe(folder, "is not a folder")
    if not is_own(status):
        raise _unsafe(folder, f"belongs to user {status.st_uid}")
    if others_may_write(status):
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


def _is_plain(name: str) -> bool:
    return name.isascii() and not name.startswith(".") and name != "" and all(letter.isalnum() or letter in "._+-" for letter in name)


def _unsafe(folder: Path, why: str) -> UnsafeCacheDirectory:
    return UnsafeCacheDirectory(
        f"{folder} {why}, so that code of others could be loaded from it",
        remedy="Make it yours alone (chown, chmod 700), or set another folder in ATTNGEN_CACHE_DIR.",
    )

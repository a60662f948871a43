"""The cache on disk, safe for concurrent processes, with a dictionary in front.

An entry is a folder named by its key. It is written under a temporary name in the same folder and published by one rename, so that readers
see all of it or nothing; of two writers the later one discards its copy. The lock per key only saves work: without it, both build.

Exceptions: `try_load` removes an entry that is damaged, or that others could have written, with one warning, and reports a miss. `build`
raises what the builder raises; where nothing can be stored, it warns once and keeps entries in a private folder until the process ends. A
cache that others could write to, or replace, raises UnsafeCacheDirectory when it is opened and at each read or write of an entry, since it
may have been replaced meanwhile; everything else works without a cache.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from attngen.cache.directory import cache_base, held_directory, prepare_directory
from attngen.cache.entry import Artefacts, BadEntry, Entry, read_entry, sync_folder, write_entry
from attngen.errors import CacheError, InternalError, UnsafeCacheDirectory

LOCK_TIMEOUT_S = 300.0

_ABIS = "py*-triton*-torch*"
_KEY = re.compile(r"[0-9a-f]{64}")
_STAGING = ".tmp-"
_LOCKS = ".locks"
_STALE_AFTER_S = 3600.0
# Another process may publish, and a third remove, between a failed rename and the next read.
_PUBLISH_ATTEMPTS = 3


class CacheWarning(UserWarning):
    """The cache is degraded: an entry was damaged, a lock was stuck, or nothing can be stored."""


def open_store(version: str, abi: str, cache_dir: Path | None = None, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Store:
    """The cache of this user for one version of attngen and one set of binaries.

    Args:
        version: of attngen.
        abi: a plain name of the versions that compiled code depends on, "py311-triton3.6.0-torch2.13.0".
        cache_dir: the knob of that name; None is the platform's default.
        lock_timeout_s: how long to wait, in seconds, for another process that builds the same entry.

    Raises:
        UnsafeCacheDirectory: others could write into the folder.
    """
    return Store(prepare_directory(cache_base(cache_dir), version, abi), lock_timeout_s=lock_timeout_s)


class Store:
    """Entries by key, in a folder checked by `prepare_directory`. With None as folder, entries last for this process only."""

    def __init__(self, folder: Path | None, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self.folder = folder
        self._lock_timeout_s = lock_timeout_s
        self._memory: dict[str, Entry] = {}
        self._guard = threading.Lock()
        self._private: Path | None = None

    def try_load(self, key: str) -> Entry | None:
        """The entry for `key`, or None. Files are read and verified once per process; the entry holds their content.

        Raises:
            UnsafeCacheDirectory: others could write into the folder, or replace it.
        """
        _check_key(key)
        with self._guard:
            entry = self._memory.get(key)
        if entry is not None and entry.is_there():
            return entry
        for folder in self._folders():
            entry = _load(folder, key)
            if entry is not None:
                return self._remember(entry)
        with self._guard:
            self._memory.pop(key, None)
        return None

    def build(self, key: str, make: Callable[[], Artefacts]) -> Entry:
        """The entry for `key`, made by `make` if there is none. Of concurrent processes, normally one calls `make`."""
        entry = self.try_load(key)
        if entry is not None:
            return entry
        with self._lock(key):
            entry = self.try_load(key)
            if entry is not None:
                return entry
            return self._remember(self._store(key, make()))

    def entries(self) -> tuple[Entry, ...]:
        """All valid entries, sorted by key. Damaged ones are skipped, not removed."""
        found: dict[str, Entry] = {}
        for folder in self._folders():
            for key in _keys(folder):
                with suppress(BadEntry, FileNotFoundError), held_directory(folder) as descriptor:
                    entry = read_entry(folder / key, key, descriptor)
                    if entry is not None:
                        found.setdefault(key, entry)
        return tuple(found[key] for key in sorted(found))

    def clear(self) -> int:
        """Removes all entries, damaged ones too, and returns their number.

        Raises:
            CacheError: some could not be removed.
        """
        with self._guard:
            self._memory.clear()
        count = 0
        for folder in self._folders():
            for key in _keys(folder):
                if not _remove(folder / key):
                    raise CacheError(f"cannot remove {folder / key}", remedy="Is the folder read-only?")
                count += 1
            _sweep(folder)
            # A process that still waits on one of these locks builds for itself, which only costs time.
            shutil.rmtree(folder / _LOCKS, ignore_errors=True)
        return count

    def _folders(self) -> tuple[Path, ...]:
        with self._guard:
            return tuple(folder for folder in (self._private, self.folder) if folder is not None)

    def _remember(self, entry: Entry) -> Entry:
        with self._guard:
            self._memory[entry.key] = entry
        return entry

    def _store(self, key: str, artefacts: Artefacts) -> Entry:
        why = "its folder cannot be created"
        if self.folder is not None and self._private is None:
            try:
                return _publish(self.folder, key, artefacts)
            except UnsafeCacheDirectory:
                raise
            except OSError as error:
                why = str(error)
        try:
            return _publish(self._private_folder(why), key, artefacts)
        except OSError as error:
            remedy = "Is the disk full? Name a folder with room in ATTNGEN_CACHE_DIR."
            raise CacheError(f"no compiled kernel can be stored: {error}", remedy=remedy) from error

    def _private_folder(self, why: str) -> Path:
        """A folder of this process, deleted at its end."""
        with self._guard:
            if self._private is not None:
                return self._private
            self._private = Path(tempfile.mkdtemp(prefix="attngen-"))
            weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
        place = "the cache" if self.folder is None else f"the cache {self.folder}"
        warnings.warn(f"{place} stores nothing ({why}); kernels are kept until this process ends", CacheWarning, stacklevel=4)
        return self._private

    @contextmanager
    def _lock(self, key: str) -> Generator[None, None, None]:
        """Held while one process builds; skipped after the timeout, or where locks do not work."""
        folders = self._folders()
        lock: filelock.BaseFileLock | None = None
        if folders:
            path = folders[-1] / _LOCKS / f"{key}.lock"
            try:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                lock = filelock.FileLock(path, timeout=self._lock_timeout_s)
                lock.acquire()
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            except filelock.Timeout:
                lock = None
                waited = f"waited {self._lock_timeout_s:g} s for {_owner(path)} to build an entry, and now build it too"
                warnings.warn(waited, CacheWarning, stacklevel=5)
            except (OSError, NotImplementedError):
                pass
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    lock.release()


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InternalError(f"{key!r} is not a cache key")


def _load(folder: Path, key: str) -> Entry | None:
    try:
        with held_directory(folder) as descriptor:
            return read_entry(folder / key, key, descriptor)
    except FileNotFoundError:
        return None
    except BadEntry as error:
        _remove(folder / key)
        message = f"the cache entry {folder / key} is damaged ({error}); it is removed and will be built again"
        warnings.warn(message, CacheWarning, stacklevel=4)
        return None


def _publish(folder: Path, key: str, artefacts: Artefacts) -> Entry:
    """Writes to a temporary folder, then renames it. The second of two writers uses the entry of the first.

    Raises:
        OSError: the folder cannot be written. UnsafeCacheDirectory: others could write into it.
    """
    with held_directory(folder):
        _sweep(folder)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
    try:
        write_entry(staging, key, artefacts)
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                os.rename(staging, folder / key)  # noqa: PTH104  tests replace this one call to stand for a read-only file system
                sync_folder(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            entry = _load(folder, key)
            if entry is not None:
                return entry
        raise OSError(errno.EEXIST, "a damaged entry is in the way and cannot be removed", str(folder / key))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove(path: Path) -> bool:
    """Hides an entry by one rename, then deletes it. False if it is still there."""
    aside = path.with_name(f"{_STAGING}{os.urandom(8).hex()}")
    try:
        os.rename(path, aside)  # noqa: PTH104  see _publish
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if aside.is_symlink() or not aside.is_dir():
        aside.unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _sweep(folder: Path) -> None:
    """Removes temporary folders of killed writers; younger ones may still be in use."""
    with suppress(OSError):
        for leftover in folder.glob(f"{_STAGING}*"):
            if time.time() - leftover.lstat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(leftover, ignore_errors=True)


def _keys(folder: Path) -> tuple[str, ...]:
    with suppress(OSError):
        return tuple(sorted(name for name in os.listdir(folder) if _KEY.fullmatch(name)))  # noqa: PTH208  only the names are wanted
    return ()


def _owner(lock: Path) -> str:
    with suppress(OSError):
        return lock.read_text()[:100] or "another process"
    return "another process"


def all_stores(override: Path | None = None) -> list[Store]:
    """The caches of all versions of attngen and its tools. Other folders beside them are ignored.

    Args:
        override: the knob `cache_dir`.
    """
    base = cache_base(override)
    parts = sorted(path.relative_to(base).parts for path in base.glob(f"*/{_ABIS}") if path.is_dir())
    return [Store(prepare_directory(base, *names)) for names in parts]

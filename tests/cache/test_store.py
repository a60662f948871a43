"""The store against other processes, killed writers, damage, and folders that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from attngen.cache.entry import MANIFEST, Artefacts, Entry, write_entry
from attngen.cache.store import CacheWarning, Store, open_store
from attngen.errors import CacheError, InternalError, UnsafeCacheDirectory

KEY = "a" * 64
OTHER = "b" * 64
ARTEFACTS = Artefacts({"kernel.py": b"x = 1\n", "kernel.cubin": bytes(5000)}, {"registers": 128})

# A process of its own that builds KEY once the file `go` appears, and reports how often it called the builder.
BUILDER = """
import sys, time
from pathlib import Path
from attngen.cache import Artefacts, Store
folder, go, mark = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
calls = []
def make():
    calls.append(1)
    time.sleep(0.2)
    return Artefacts({"kernel.py": b"# " + mark.encode() * 1000}, {"by": mark})
Path(str(go) + mark).touch()
while not go.exists():
    time.sleep(0.001)
entry = Store(folder, lock_timeout_s=float(sys.argv[4])).build("a" * 64, make)
print(len(calls), entry.metadata["by"], entry.file("kernel.py").read_text()[2])
"""

# A process that dies in the middle of writing, after the first file and before the rename.
KILLED = """
import os, signal, sys
from pathlib import Path
from attngen.cache import Artefacts, Store
def die(descriptor):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
Store(Path(sys.argv[1])).build("a" * 64, lambda: Artefacts({"kernel.py": b"x", "other.py": b"y"}, {}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(folder)


def make() -> Artefacts:
    return ARTEFACTS


def never() -> Artefacts:
    raise AssertionError("there is an entry, nothing has to be built")


def refuse(code: int) -> Callable[..., None]:
    def call(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".locks")


def holds(entry: Entry | None) -> bool:
    return entry is not None and {name: entry.file(name).read_bytes() for name in entry.files} == ARTEFACTS.files


class TestOneProcess:
    def test_an_unknown_key_is_a_miss(self, store: Store) -> None:
        assert store.try_load(KEY) is None

    def test_what_was_built_is_found_by_the_next_store(self, store: Store, folder: Path) -> None:
        assert holds(store.build(KEY, make))
        assert holds(Store(folder).try_load(KEY))
        assert holds(Store(folder).build(KEY, never))
        assert visible(folder) == [KEY]

    def test_memory_answers_without_reading_files(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = store.build(KEY, make)
        monkeypatch.setattr(os, "open", refuse(errno.EIO))
        assert store.try_load(KEY) is entry

    def test_an_entry_that_was_cleared_by_others_is_a_miss(self, store: Store, folder: Path) -> None:
        store.build(KEY, make)
        assert Store(folder).clear() == 1
        assert store.try_load(KEY) is None
        assert holds(store.build(KEY, make))

    def test_errors_of_the_builder_pass_and_leave_nothing(self, store: Store, folder: Path) -> None:
        def fail() -> Artefacts:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.build(KEY, fail)
        assert visible(folder) == []
        assert holds(store.build(KEY, make))

    def test_bad_artefacts_leave_nothing(self, store: Store, folder: Path) -> None:
        with pytest.raises(InternalError):
            store.build(KEY, lambda: Artefacts({"ok.py": b"", "../x": b""}, {}))
        assert visible(folder) == []

    @pytest.mark.parametrize("key", ["", "a", "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
    def test_keys_are_checked(self, store: Store, key: str) -> None:
        with pytest.raises(InternalError):
            store.try_load(key)

    def test_entries_and_clear(self, store: Store, folder: Path) -> None:
        store.build(OTHER, make)
        store.build(KEY, make)
        (folder / ("c" * 64)).mkdir()
        assert [entry.key for entry in store.entries()] == [KEY, OTHER]
        assert store.clear() == 3
        assert store.entries() == ()
        assert visible(folder) == []
        assert store.try_load(KEY) is None

    def test_clear_says_when_it_cannot(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.build(KEY, make)
        monkeypatch.setattr(os, "rename", refuse(errno.EACCES))
        with pytest.raises(CacheError):
            store.clear()

    def test_old_leftovers_go_and_young_ones_stay(self, store: Store, folder: Path) -> None:
        for name, age_s in ((".tmp-old", 3700), (".tmp-young", 10)):
            (folder / name).mkdir()
            (folder / name / "kernel.py").touch()
            os.utime(folder / name, (time.time() - age_s,) * 2)
        store.build(KEY, make)
        assert visible(folder) == [".tmp-young", KEY]

    def test_threads_share_one_build(self, store: Store) -> None:
        calls: list[int] = []
        found: list[Entry] = []

        def slow() -> Artefacts:
            calls.append(1)
            time.sleep(0.1)
            return ARTEFACTS

        threads = [threading.Thread(target=lambda: found.append(store.build(KEY, slow))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 1
        assert len(found) == 4 and all(holds(entry) for entry in found)


class TestDamage:
    @pytest.mark.parametrize("name", ["kernel.py", "kernel.cubin", MANIFEST])
    @pytest.mark.parametrize("keep_bytes", [0, 3])
    def test_a_truncated_file_is_one_warning_and_a_rebuild(self, store: Store, folder: Path, name: str, keep_bytes: int) -> None:
        store.build(KEY, make)
        os.truncate(folder / KEY / name, keep_bytes)
        fresh = Store(folder)
        with pytest.warns(CacheWarning) as caught:
            assert fresh.try_load(KEY) is None
        assert len(caught) == 1
        assert visible(folder) == []
        assert holds(fresh.build(KEY, make))

    @pytest.mark.parametrize("kind", ["file", "link", "empty folder"])
    def test_something_else_in_the_place_of_an_entry(self, folder: Path, tmp_path: Path, kind: str) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").touch()
        match kind:
            case "file":
                (folder / KEY).touch()
            case "link":
                (folder / KEY).symlink_to(outside)
            case _:
                (folder / KEY).mkdir()
        with pytest.warns(CacheWarning):
            assert holds(Store(folder).build(KEY, make))
        assert visible(folder) == [KEY]
        assert (outside / "precious").exists()

    def test_damage_that_cannot_be_removed_is_still_a_miss(self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store.build(KEY, make)
        os.truncate(folder / KEY / "kernel.py", 1)
        monkeypatch.setattr(os, "rename", refuse(errno.EROFS))
        with pytest.warns(CacheWarning):
            assert Store(folder).try_load(KEY) is None


def swap(folder: Path, planted: bytes) -> None:
    """Another cache in the place of this one, with an entry of the same key that is complete in itself."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    (folder / KEY).mkdir(mode=0o700)
    write_entry(folder / KEY, KEY, Artefacts({"kernel.py": planted}, {}))


def give_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
class TestSwapped:
    """A folder that another user puts in the place of the cache while a process has it open."""

    def test_a_folder_of_another_user_is_refused(self, store: Store, folder: Path) -> None:
        store.build(OTHER, make)
        swap(folder, b"planted")
        give_away(folder)
        for use in (lambda: store.try_load(KEY), lambda: store.build(KEY, make), lambda: store.build("c" * 64, make), store.entries):
            with pytest.raises(UnsafeCacheDirectory):
                use()
        assert sorted(path.name for path in folder.iterdir() if path.name != ".locks") == [KEY]

    def test_an_entry_of_another_user_is_not_taken(self, store: Store, folder: Path) -> None:
        swap(folder, b"planted")
        give_away(folder / KEY)
        with pytest.warns(CacheWarning, match="belongs to user"):
            assert holds(store.build(KEY, make))

    def test_a_folder_below_one_that_has_been_opened_is_refused(self, folder: Path) -> None:
        store = Store(folder)
        folder.parent.chmod(0o777)
        with pytest.raises(UnsafeCacheDirectory):
            store.try_load(KEY)
        folder.parent.chmod(0o1777)
        assert store.try_load(KEY) is None

    def test_what_was_verified_is_what_an_entry_holds(self, store: Store, folder: Path) -> None:
        store.build(KEY, make)
        swap(folder, b"planted")
        give_away(folder)
        entry = store.try_load(KEY)
        assert entry is not None and entry.contents == ARTEFACTS.files


class TestProcesses:
    def race(self, folder: Path, tmp_path: Path, count: int, lock_timeout_s: float) -> list[list[str]]:
        go = tmp_path / "go"
        command = [sys.executable, "-c", BUILDER, str(folder), str(go)]
        marks = "pqrs"[:count]
        running = [
            subprocess.Popen([*command, mark, str(lock_timeout_s)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for mark in marks
        ]
        while not all(Path(f"{go}{mark}").exists() for mark in marks):
            assert all(process.poll() is None for process in running)
            time.sleep(0.005)
        go.touch()
        said = [process.communicate(timeout=60)[0].split() for process in running]
        assert all(process.returncode == 0 for process in running)
        return said

    def test_two_processes_build_one_entry_once(self, folder: Path, tmp_path: Path) -> None:
        said = self.race(folder, tmp_path, 2, 30.0)
        assert sorted(calls for calls, *_ in said) == ["0", "1"]
        assert len({(by, text) for _, by, text in said}) == 1
        assert visible(folder) == [KEY]

    def test_without_a_lock_the_rename_decides(self, folder: Path, tmp_path: Path) -> None:
        said = self.race(folder, tmp_path, 3, 0.0)
        assert len({(by, text) for _, by, text in said}) == 1
        assert visible(folder) == [KEY]
        entry = Store(folder).try_load(KEY)
        assert entry is not None and entry.metadata["by"] == said[0][1]

    def test_a_killed_writer_leaves_nothing_to_see(self, store: Store, folder: Path) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
        assert done.returncode == -signal.SIGKILL
        (leftover,) = visible(folder)
        assert leftover.startswith(".tmp-")
        assert store.entries() == ()
        assert store.try_load(KEY) is None
        assert holds(store.build(KEY, make))

    def test_a_stuck_lock_delays_and_does_not_stop(self, folder: Path) -> None:
        (folder / ".locks").mkdir()
        lock = folder / ".locks" / f"{KEY}.lock"
        with filelock.FileLock(lock):
            lock.write_text("process 1 on somewhere")
            found: list[Entry] = []

            def build() -> None:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found.append(Store(folder, lock_timeout_s=0.1).build(KEY, make))
                said.extend(str(warning.message) for warning in caught)

            said: list[str] = []
            thread = threading.Thread(target=build)
            thread.start()
            thread.join(timeout=30)
        assert holds(found[0])
        assert len(said) == 1 and "process 1 on somewhere" in said[0]

    def test_a_lock_that_does_not_work_does_not_stop(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filelock.FileLock, "acquire", refuse(errno.ENOLCK))
        assert holds(store.build(KEY, make))


class TestReadOnly:
    def test_entries_are_read_and_new_ones_kept_privately(
        self, store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.build(KEY, make)
        before = visible(folder)
        shutil.rmtree(folder / ".locks")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        make_folder = os.mkdir

        def read_only(path: str | Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            if Path(path).is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            make_folder(path, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mkdir", read_only)
        fresh = Store(folder)
        assert holds(fresh.try_load(KEY))
        with pytest.warns(CacheWarning) as caught:
            entry = fresh.build(OTHER, make)
            fresh.build("c" * 64, make)
        assert len(caught) == 1
        assert holds(entry) and not entry.path.is_relative_to(folder)
        assert entry.path.parent.stat().st_mode & 0o777 == 0o700
        assert holds(fresh.build(OTHER, never))
        assert [found.key for found in fresh.entries()] == [KEY, OTHER, "c" * 64]
        assert visible(folder) == before
        private = entry.path.parent
        del fresh, entry
        assert not private.exists()

    def test_a_rename_that_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = os.rename

        def read_only(source: str | Path, target: str | Path) -> None:
            if Path(target).is_relative_to(folder):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            rename(source, target)

        monkeypatch.setattr(os, "rename", read_only)
        with pytest.warns(CacheWarning):
            store = Store(folder)
            assert holds(store.build(KEY, make))
        assert visible(folder) == []

    def test_no_folder_at_all(self) -> None:
        store = Store(None)
        assert store.try_load(KEY) is None
        assert store.entries() == ()
        assert store.clear() == 0
        with pytest.warns(CacheWarning):
            assert holds(store.build(KEY, make))

    def test_nowhere_to_write(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "mkdtemp", refuse(errno.ENOSPC))
        with pytest.raises(CacheError):
            Store(folder).build(KEY, make)


class TestOpen:
    def test_the_folder_names_version_and_abi(self, tmp_path: Path) -> None:
        store = open_store("0.1.0", "cp311-triton3.6.0", tmp_path / "cache")
        assert store.folder == tmp_path / "cache" / "0.1.0" / "cp311-triton3.6.0"

    def test_an_unsafe_folder_is_refused(self, folder: Path) -> None:
        folder.chmod(0o777)
        with pytest.raises(UnsafeCacheDirectory):
            open_store("0.1.0", "cp311", folder)

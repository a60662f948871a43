"""The user's table of tuned tiles in the cache folder, which takes precedence over the shipped one.

Read once per process. A damaged user file is kept, reported once, and counts as empty.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path

from attngen.cache.directory import cache_base, held_directory, prepare_directory
from attngen.cache.store import CacheWarning
from attngen.errors import CacheError, ScheduleError
from attngen.knobs import Knobs
from attngen.schedule.tuned import FILE_NAME, TunedTable, read, shipped, write

_NO_TABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ScheduleError)


def tuned_tiles(knobs: Knobs, local: bool) -> TunedTable:
    """The table of tuned tiles for choices.

    Args:
        knobs: `cache_dir` locates the user's table.
        local: whether to include it; kernels for other machines rest on the shipped one alone.
    """
    return _together(knobs.cache_dir) if local else shipped()


def own_path(cache_dir: Path | None) -> Path:
    """The path of the user's table, which need not exist; its folder does, readable by its owner only.

    Raises:
        CacheError: the folder cannot be created. UnsafeCacheDirectory: others could write into it.
    """
    base = cache_base(cache_dir)
    if prepare_directory(base) is None:
        raise CacheError(f"the cache folder {base} cannot be created", remedy="Set another in ATTNGEN_CACHE_DIR, or a file with --out.")
    return base / FILE_NAME


def existing(path: Path) -> TunedTable:
    """The table in a file, empty where there is none.

    Raises:
        CacheError: the file is something else, and is not replaced.
    """
    try:
        return read(path.read_text(encoding="utf-8")) if os.path.lexists(path) else TunedTable()
    except _NO_TABLE as error:
        remedy = "Name another file with --out, or remove this one."
        raise CacheError(f"{path} exists and is not a table of tuned schedules: {error}", remedy=remedy) from error


def record(found: TunedTable, path: Path) -> TunedTable:
    """Merge rows into a table on disk, replacing rows of the same cases; returns the whole table.

    Raises:
        CacheError: it cannot be written, or an existing file is something else, which is kept.
    """
    merged = found.over(existing(path))
    staging = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        staging.write_text(write(merged), encoding="utf-8")
        staging.replace(path)
    except OSError as error:
        raise CacheError(f"{path} cannot be written: {error}", remedy="Is the disk full, or the folder read-only?") from error
    finally:
        staging.unlink(missing_ok=True)
    _together.cache_clear()
    return merged


@cache
def _together(cache_dir: Path | None) -> TunedTable:
    path = cache_base(cache_dir) / FILE_NAME
    if not path.is_file():
        return shipped()
    with held_directory(path.parent):
        return _read(path).over(shipped())


def _read(path: Path) -> TunedTable:
    try:
        return read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return TunedTable()
    except _NO_TABLE as error:
        warnings.warn(f"{path} is not a table of tuned schedules ({error}); it counts as empty", CacheWarning, stacklevel=3)
        return TunedTable()

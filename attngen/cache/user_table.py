"""Tiles that were tuned: the user's table in the cache folder over the one that ships.

Read once a process. A damaged file of the user's is left alone, said once, and counts as empty: tiles are then what they were before
tuning.
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
    """The table that choices ask first.

    Args:
        knobs: `cache_dir` says where the user's table lies.
        local: whether it counts; what is made for other machines rests on the shipped one alone.
    """
    return _together(knobs.cache_dir) if local else shipped()


def own_path(cache_dir: Path | None) -> Path:
    """The user's table, which need not be there; its folder is, readable by its owner only.

    Raises:
        CacheError: the folder cannot be created. UnsafeCacheDirectory: others could write into it.
    """
    base = cache_base(cache_dir)
    if prepare_directory(base) is None:
        raise CacheError(f"the cache folder {base} cannot be created", remedy="Name another with ATTNGEN_CACHE_DIR, or a file with --out.")
    return base / FILE_NAME


def existing(path: Path) -> TunedTable:
    """The table in a file, empty where there is none.

    Raises:
        CacheError: the file is no such table, and not to be replaced by one.
    """
    try:
        return read(path.read_text(encoding="utf-8")) if os.path.lexists(path) else TunedTable()
    except _NO_TABLE as error:
        remedy = "Name another file with --out, or remove this one."
        raise CacheError(f"{path} is there and is no table of tuned schedules: {error}", remedy=remedy) from error


def record(found: TunedTable, path: Path) -> TunedTable:
    """Put rows into a table on disk, in place of those it has for the same cases; gives all of it.

    Raises:
        CacheError: it cannot be written, or the file that is there is no such table; that one stays.
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
        warnings.warn(f"{path} is no table of tuned schedules ({error}); it counts as empty", CacheWarning, stacklevel=3)
        return TunedTable()

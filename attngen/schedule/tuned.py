"""Tables of tuned tiles, timed on a GPU, which take precedence over compiled measurements.

A row holds the fastest tile for one kernel structure, arithmetic, dtype, target and length class, with the default tile it replaces. The
user's table, written to the cache folder by `attngen tune`, precedes the shipped `tuned.json` beside this file. Files of another format
version count as empty. Times do not carry over to another target, dtype or number of operations, so only exact matches count.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from attngen.errors import InternalError
from attngen.facts.work import Structure
from attngen.schedule.tile_schedule import TileSchedule, parse_tile

# Raised when the meaning of a column or the way of timing changes; older files then count as empty.
FORMAT_VERSION = 1
FILE_NAME = "tuned.json"
_SHIPPED = Path(__file__).with_name(FILE_NAME)


@dataclass(frozen=True, slots=True, order=True)
class Tuned:
    """One kernel's fastest tile.

    `structure` is `Structure.key` of the kernel, `special` and `simple` its `Structure.arithmetic`, `dims` the extents that were timed.
    `call_us` is the median time of a call of the module in which only this tile was varied; `usual` is the default tile and `usual_us`
    its time, None if it did not run. `tried` counts the tiles that ran.
    """

    arch: str
    dtype: str
    length: str
    structure: str
    special: int
    simple: int
    dims: str
    tile: str
    call_us: float
    usual: str
    usual_us: float | None
    tried: int
    device: str
    triton: str

    @property
    def schedule(self) -> TileSchedule:
        """The tile, parsed."""
        return parse_tile(self.tile)

    @property
    def case(self) -> tuple[str, str, str, str, int, int]:
        """The look-up key of the row."""
        return (self.arch, self.dtype, self.length, self.structure, self.special, self.simple)


@dataclass(frozen=True, slots=True)
class TunedTable:
    """Rows in order, one for each case."""

    rows: tuple[Tuned, ...] = ()

    def find(self, arch: str, dtype: str, length: str, kernel: Structure, extents: dict[str, int]) -> Tuned | None:
        """The row of this exact kernel, None where it was not timed."""
        return _index(self).get((arch, dtype, length, kernel.key(extents), *kernel.arithmetic))

    def without_alternates(self) -> TunedTable:
        """The table without rows of alternate kernels."""
        return TunedTable(tuple(row for row in self.rows if not row.schedule.alternate))

    def over(self, other: TunedTable) -> TunedTable:
        """Both tables merged, with precedence for this one."""
        return table_of((*other.rows, *self.rows))


def table_of(rows: Iterable[Tuned]) -> TunedTable:
    """A table of these rows; the last one for a case wins."""
    return TunedTable(tuple(sorted({row.case: row for row in rows}.values())))


@functools.lru_cache(maxsize=8)
def _index(table: TunedTable) -> dict[tuple[str, str, str, str, int, int], Tuned]:
    return {row.case: row for row in table.rows}


@functools.cache
def shipped() -> TunedTable:
    """The table that ships with this version.

    Raises:
        InternalError: the file is missing or damaged, as in a broken installation.
    """
    try:
        return read(_SHIPPED.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InternalError(f"the table of tuned schedules cannot be read: {error}") from error


def read(text: str) -> TunedTable:
    """A table from its text; empty if of another format version.

    Raises:
        ValueError, TypeError, KeyError: it is no table. ScheduleError: a row has no legal tile.
    """
    content = json.loads(text)
    if sorted(content) != ["columns", "rows", "version"]:
        raise ValueError(f"its fields are {', '.join(map(str, content))[:80]}")
    if content["version"] != FORMAT_VERSION:
        return TunedTable()
    names = [field.name for field in fields(Tuned)]
    if content["columns"] != names:
        raise ValueError(f"its columns are {content['columns']}")
    found = table_of(Tuned(*row) for row in content["rows"])
    for row in found.rows:
        parse_tile(row.tile)
    return found


def write(table: TunedTable) -> str:
    """The text of a table: sorted, one row a line."""
    names = json.dumps([field.name for field in fields(Tuned)])
    lines = ",\n".join(json.dumps(astuple(row), separators=(",", ":")) for row in table.rows)
    return f'{{"version": {FORMAT_VERSION},\n"columns": {names},\n"rows": [\n{lines}\n]}}\n'

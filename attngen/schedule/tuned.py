"""What a GPU said about tiles: tables of timed winners, looked up before anything that was only compiled.

A row holds the tile that was fastest for one kernel structure, arithmetic, dtype, target and class of lengths, with the tile that would
have been taken otherwise. Two tables are asked, in this order: the user's own, which `attngen tune` writes into the cache folder, and
`tuned.json` beside this file, which ships. Rows of another format are no rows. Times do not carry over to another target, dtype or
number of operations, so only exact matches count.
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

# Raise it when the meaning of a column or the way of timing changes: older files are then read as empty.
FORMAT_VERSION = 1
FILE_NAME = "tuned.json"
_SHIPPED = Path(__file__).with_name(FILE_NAME)


@dataclass(frozen=True, slots=True, order=True)
class Tuned:
    """One kernel's fastest tile.

    `structure` is `Structure.key` of the kernel, `special` and `simple` its `Structure.arithmetic`, `dims` the extents that were timed.
    `call_us` is the median time of a call of the module in which only this tile was varied; `usual` is the tile that stands without this
    row and `usual_us` the time with it, None if it did not run. `tried` counts the tiles that ran.
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
        """The tile, read back."""
        return parse_tile(self.tile)

    @property
    def case(self) -> tuple[str, str, str, str, int, int]:
        """What the row answers for."""
        return (self.arch, self.dtype, self.length, self.structure, self.special, self.simple)


@dataclass(frozen=True, slots=True)
class TunedTable:
    """Rows in order, one for each case."""

    rows: tuple[Tuned, ...] = ()

    def find(self, arch: str, dtype: str, length: str, kernel: Structure, extents: dict[str, int]) -> Tuned | None:
        """The row of exactly this kernel, None where it was not timed."""
        return _index(self).get((arch, dtype, length, kernel.key(extents), *kernel.arithmetic))

    def without_alternates(self) -> TunedTable:
        """Without rows of alternate kernels."""
        return TunedTable(tuple(row for row in self.rows if not row.schedule.alternate))

    def over(self, other: TunedTable) -> TunedTable:
        """Both tables; where both have a row, this one's."""
        return table_of((*other.rows, *self.rows))


def table_of(rows: Iterable[Tuned]) -> TunedTable:
    """A table of these rows; of several for one case the last one stands."""
    return TunedTable(tuple(sorted({row.case: row for row in rows}.values())))


@functools.lru_cache(maxsize=8)
def _index(table: TunedTable) -> dict[tuple[str, str, str, str, int, int], Tuned]:
    return {row.case: row for row in table.rows}


@functools.cache
def shipped() -> TunedTable:
    """The table that ships with this version.

    Raises:
        InternalError: the file is missing or damaged, which only a broken installation can cause.
    """
    try:
        return read(_SHIPPED.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InternalError(f"the table of tuned schedules cannot be read: {error}") from error


def read(text: str) -> TunedTable:
    """A table from its text; empty if it is of another format.

    Raises:
        ValueError, TypeError, KeyError: it is no table. ScheduleError: a row holds no tile.
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

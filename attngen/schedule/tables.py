"""The committed table of compiled kernels, on which choices rest, and its loader.

`table.json` is written by `benchmarks/schedules/measure.py` and holds one row for each kernel structure, dtype, target and length class.
Rows are frozen and sorted; the table is immutable.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from attngen.errors import InternalError
from attngen.schedule.tile_schedule import TileSchedule, parse_tile

# Related targets and dtypes whose rows are used where there are none: the same instructions with the same limits or lower ones.
_ARCHS = {"sm89": "sm86", "gfx950": "gfx942"}
_DTYPES = {"float16": "bfloat16"}
_PATH = Path(__file__).with_name("table.json")


@dataclass(frozen=True, slots=True, order=True)
class Measured:
    """One compiled kernel.

    `structure` is `Structure.key` of the kernel and `special`, `simple` its `Structure.arithmetic`; `dims` are the extents compiled.
    Registers and spilled bytes are per thread, loads plus stores; `loop_spill_bytes` are those of one iteration of the main loop.
    `rank` is "chosen", or "no spill" for the first clean tile where the chosen one spills.
    """

    arch: str
    dtype: str
    length: str
    structure: str
    dims: str
    rank: str
    special: int
    simple: int
    tile: str
    registers: int
    spill_bytes: int
    loop_spill_bytes: int
    serialized: bool
    shared_bytes: int
    shared_bytes_predicted: int
    tensor_memory_columns: int

    @property
    def schedule(self) -> TileSchedule:
        """The tile, parsed."""
        return parse_tile(self.tile)

    @property
    def case(self) -> tuple[str, str, str, str, str, int, int]:
        """All that was compiled except the tile."""
        return (self.arch, self.dtype, self.length, self.structure, self.dims, self.special, self.simple)


@dataclass(frozen=True, slots=True)
class Table:
    """Sorted rows with a look-up by structure and arithmetic."""

    rows: tuple[Measured, ...]

    def find(self, arch: str, dtype: str, length: str, structure: str, arithmetic: tuple[int, int]) -> Measured | None:
        """The chosen row of a structure, None where nothing was measured.

        Args:
            arch, dtype, length, structure: as in `Measured`; a related target or dtype is used where there is no row.
            arithmetic: `Structure.arithmetic`; the row with the nearest is returned.
        """
        special, simple = arithmetic
        for where in dict.fromkeys((a, d) for a in (arch, _ARCHS.get(arch, arch)) for d in (dtype, _DTYPES.get(dtype, dtype))):
            rows = _index(self).get((*where, length, structure), ())
            if rows:
                return min(rows, key=lambda row: (4 * abs(row.special - special) + abs(row.simple - simple), row.simple))
        return None

    def alternative(self, row: Measured) -> Measured | None:
        """The tile without spills recorded beside a chosen one that spills."""
        where = row.case
        return next((item for item in self.rows if item.rank == "no spill" and item.case == where), None)


@functools.lru_cache(maxsize=4)
def _index(table: Table) -> dict[tuple[str, str, str, str], tuple[Measured, ...]]:
    """Chosen rows by structure; of extents that share a padded tile, the largest represents all."""
    chosen = (row for row in table.rows if row.rank == "chosen")
    largest: dict[tuple[object, ...], Measured] = {}
    for row in sorted(chosen, key=lambda row: [int(extent) for extent in row.dims.split(",")]):
        largest[row.arch, row.dtype, row.length, row.structure, row.special, row.simple] = row
    found: dict[tuple[str, str, str, str], tuple[Measured, ...]] = {}
    for row in largest.values():
        key = (row.arch, row.dtype, row.length, row.structure)
        found[key] = (*found.get(key, ()), row)
    return found


@functools.cache
def table() -> Table:
    """The committed table.

    Raises:
        InternalError: the file is missing or damaged, as in a broken installation.
    """
    try:
        return read(_PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise InternalError(f"the table of measured schedules cannot be read: {error}") from error


def read(text: str) -> Table:
    """A table from its text."""
    content = json.loads(text)
    names = [field.name for field in fields(Measured)]
    if content["columns"] != names:
        raise ValueError(f"its columns are {content['columns']}")
    return Table(tuple(sorted(Measured(*row) for row in content["rows"])))


def write(rows: Iterable[Measured]) -> str:
    """The text of a table: sorted, one row a line."""
    names = json.dumps([field.name for field in fields(Measured)])
    lines = ",\n".join(json.dumps(astuple(row), separators=(",", ":")) for row in sorted(set(rows)))
    return f'{{"columns": {names},\n"rows": [\n{lines}\n]}}\n'

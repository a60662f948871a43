"""Recorded figures: one row for each kernel in record.jsonl, and the regressions of a new row against it.

The first line of the file says what the figures hold for. Rows keep the main loops as JSON has them, so that a record of an older form can
still be compared in what both know. Nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "record.jsonl"
# How much may be lost before a kernel counts as worse.
OVERLAP_SLACK = 0.05
INSTRUCTION_SLACK = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kernel.

    `source` is who wrote it, `head_dim` what was asked for, and `tile` reads "128x64,w8,s2", the resident extent first. Registers and
    spills are per thread, `spill_bytes` over the whole text; `loops` are `attngen.toolchain.loop_report.Static` as mappings.
    """

    source: str
    name: str
    role: str
    head_dim: str
    tile: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    loops: tuple[Mapping[str, Any], ...]

    @property
    def case(self) -> tuple[str, str, str]:
        """What was compiled for it, together with the other kernels of the module."""
        return self.source, self.name, self.head_dim

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the row is about."""
        return self.source, self.name, self.head_dim, self.role

    def __str__(self) -> str:
        return f"{self.source} {self.name} {self.head_dim} {self.role}"


@dataclass(frozen=True, slots=True)
class Record:
    """Rows by their keys, with what they hold for: target, dtype, version of Triton."""

    holds_for: Mapping[str, str]
    rows: Mapping[tuple[str, str, str, str], Row] = field(default_factory=dict)

    def of(self, case: tuple[str, str, str]) -> tuple[Row, ...]:
        """The kernels of a case."""
        return tuple(row for row in self.rows.values() if row.case == case)

    def with_case(self, case: tuple[str, str, str], rows: Iterable[Row]) -> Record:
        """The record with these rows in place of all older ones of the case."""
        others = {key: row for key, row in self.rows.items() if row.case != case}
        return Record(self.holds_for, {**others, **{row.key: row for row in rows}})

    def write(self, path: Path = PATH) -> None:
        """A line for what it holds for and one a row, sorted by key."""
        lines = [json.dumps(self.holds_for), *(json.dumps(_rounded(asdict(self.rows[key]))) for key in sorted(self.rows))]
        path.write_text("\n".join(lines) + "\n")


def read(path: Path = PATH) -> Record:
    """The recorded figures; those of no kernel where the file is missing."""
    if not path.exists():
        return Record({})
    first, *lines = path.read_text().splitlines()
    rows = [Row(**{**data, "loops": tuple(data["loops"])}) for data in map(json.loads, lines)]
    return Record(json.loads(first), {row.key: row for row in rows})


def worse(before: Row, now: Row) -> list[str]:
    """Each way in which a kernel got worse.

    More bytes are spilled in a loop, wgmma are newly serialised, a smaller share of the exponentials overlaps, or a pair of positions takes
    more instructions; loops are compared from the shortest to the longest, since the number of those over masked tiles may change.
    """
    if before.loops and not now.loops:
        return ["no main loop is left"]
    found: list[str] = []
    pairs = [(shortest(before), shortest(now)), (_longest(before), _longest(now))] if before.loops else []
    for name, (old, new) in zip(("shortest", "longest"), pairs, strict=False):
        if new["spill_bytes"] > old["spill_bytes"]:
            found.append(f"the {name} loop spills {new['spill_bytes']} B, {old['spill_bytes']} B before")
        if new["exp2_overlap"] < old["exp2_overlap"] - OVERLAP_SLACK:
            found.append(f"the {name} loop overlaps {new['exp2_overlap']:.2f} of its exponentials, {old['exp2_overlap']:.2f} before")
        more = per_pair(now, new) / per_pair(before, old) - 1
        if more > INSTRUCTION_SLACK:
            tiles = "" if now.tile == before.tile else f", at {now.tile}, {before.tile} before"
            found.append(f"the {name} loop takes {more:+.1%} instructions for a pair of positions{tiles}")
    if any(loop["serialized"] for loop in now.loops) and not any(loop["serialized"] for loop in before.loops):
        found.append("its wgmma are serialised")
    return found


def shortest(row: Row) -> Mapping[str, Any]:
    """The loop of the fewest instructions: that over full tiles where there are such."""
    return min(row.loops, key=lambda loop: loop["instructions"])


def _longest(row: Row) -> Mapping[str, Any]:
    return max(row.loops, key=lambda loop: loop["instructions"])


def per_pair(row: Row, loop: Mapping[str, Any]) -> float:
    """Instructions of all warps for each pair of positions of the tile, so that tiles of other sizes compare."""
    extents, warps, *_ = row.tile.split(",")
    resident, streamed = (int(text) for text in extents.split("x"))
    return loop["instructions"] * int(warps.removeprefix("w")) / (resident * streamed)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value

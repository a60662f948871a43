"""Readable tables of the recorded figures: results.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attngen.toolchain.loop_report import Cycles, Static, table_row
from benchmarks.static.record import Record, Row, per_pair, shortest

PATH = Path(__file__).parent / "results.md"
_REPEATED = 1.05
_HEAD = """\
# Resources of kernels, read from SASS

Written by `python -m benchmarks.static` for {target}, {dtype}, with Triton {triton}; see [README.md](README.md) for the columns.
Nothing here was timed on a GPU: `peak%` is the bound from the figures beside it, without latencies, L2 and device memory.
"""


def write(record: Record, path: Path = PATH) -> None:
    """Write the tables of a record."""
    rows = sorted(record.rows.values(), key=lambda row: (_width(row), row.name, row.source))
    own = [row for row in rows if row.source == "attngen"]
    text = [_HEAD.format(**record.holds_for)]
    for role in ("forward", "backward_columns"):
        beside = [row for row in rows if row.role == role and _rivals(row, rows)]
        beside.sort(key=lambda row: (row.name, _width(row), row.source))
        text += [f"## {role} and baselines\n", *_table(_loops(beside, ("name", "head_dim", "source"))), "", *_compared(beside), ""]
    for role in dict.fromkeys(row.role for row in sorted(own, key=lambda row: _place(row.role)) if row.loops):
        text += [f"\n## {role}\n", *_table(_loops([row for row in own if row.role == role], ("name", "head_dim")))]
    text += ["\n## Outliers\n", *_outliers(own)]
    path.write_text("\n".join(text) + "\n")


def _rivals(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Kernels of other sources for the same problem."""
    mine = row.name, row.head_dim, row.role
    return [other for other in rows if other.source != row.source and (other.name, other.head_dim, other.role) == mine]


def _compared(rows: Sequence[Row]) -> list[str]:
    """In words, how many instructions the loops over full tiles take for each pair of positions."""
    lines: list[str] = []
    for row in rows:
        if row.source == "attngen":
            others = (f"{_least(other) / _least(row):.2f} of {other.source}" for other in _rivals(row, rows))
            lines.append(f"- {row.name}, {row.head_dim}: for 1 instruction of attngen {', '.join(others)}")
    return ["Instructions of the shortest loops for each pair of positions:", "", *lines]


def _least(row: Row) -> float:
    return per_pair(row, shortest(row))


def _outliers(rows: Iterable[Row]) -> list[str]:
    """Kernels that spill in a loop, have serialised wgmma, repeat dots across warps, or overlap no exponential."""
    kinds: dict[str, list[str]] = {"spill in a main loop": [], "have serialised wgmma": [], "repeat dots across warps": []}
    idle: list[str] = []
    for row in rows:
        if not row.loops:
            continue
        name = f"{row.name} {row.head_dim} {row.role} ({row.tile})"
        spilled = max(loop["spill_bytes"] for loop in row.loops)
        repeated = max(loop["repeated"] or 0 for loop in row.loops)
        kinds["spill in a main loop"] += [f"{name}: {spilled} B an iteration"] if spilled else []
        kinds["have serialised wgmma"] += [name] if any(loop["serialized"] for loop in row.loops) else []
        kinds["repeat dots across warps"] += [f"{name}: {repeated:.2f} times"] if repeated > _REPEATED else []
        idle += [name] if shortest(row)["exp2"] and not shortest(row)["exp2_overlap"] else []
    kinds["overlap no exponential in their shortest loop"] = idle
    lines: list[str] = []
    for kind, names in kinds.items():
        lines += [f"Kernels that {kind}: {len(names)}", "", *(f"- {name}" for name in names), *([""] if names else [])]
    return lines[:-1]


def _loops(rows: Iterable[Row], fields: Sequence[str]) -> list[dict[str, object]]:
    """One row a loop; the name of its kernel stands with the first one."""
    found: list[dict[str, object]] = []
    for row in rows:
        named = {field: getattr(row, field) for field in (*fields, "tile", "registers", "shared_bytes")}
        for number, loop in enumerate(row.loops):
            shown = named if not number else dict.fromkeys(named, "")
            found.append({**shown, **table_row(_static(loop))})
    return found


def _static(loop: Mapping[str, Any]) -> Static:
    tensor = tuple((opcode, count) for opcode, count in loop["tensor"])
    return Static(**{**loop, "tensor": tensor, "notes": tuple(loop["notes"]), "cycles": Cycles(**loop["cycles"])})


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return ["nothing recorded"]
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows)]


def _width(row: Row) -> list[int]:
    return [int(text) for text in row.head_dim.split(",")]


def _place(role: str) -> int:
    order = ("forward", "backward_rows", "backward_columns", "backward_fused")
    return order.index(role) if role in order else len(order)

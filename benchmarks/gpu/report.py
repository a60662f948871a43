"""Rows as JSON, as the short table that is printed last, and as pictures where matplotlib is installed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import Row


@dataclass(frozen=True, slots=True)
class Block:
    """One part of the table: what is shown of a section, in which unit, and how many workloads at most."""

    section: str
    key: str
    unit: str
    lines: int = 24


_BLOCKS = (
    Block("forward", "tflops", "TFLOP/s and share of cuBLAS"),
    Block("backward", "tflops", "TFLOP/s and share of cuBLAS"),
    Block("forward", "first_s", "s until the first result, compilation included", 8),
    Block("backward", "first_s", "s until the first gradients, compilation included", 8),
    Block("forward", "setup_ms", "ms to prepare a mask anew; attngen does it within each call", 8),
    Block("mask", "ms", "ms before attention starts"),
    Block("decode", "gb_per_s", "GB/s from a graph and share of the copy"),
    Block("first_call", "first_s", "s of a new process, forward and backward, imports apart"),
    Block("memory", "peak_mb", "MB beyond the arguments, forward and backward"),
)
_DRAWN = tuple(block for block in _BLOCKS if block.key in ("tflops", "gb_per_s"))
_WITH_SHARE = ("tflops", "gb_per_s")
_WIDTH = 15


@dataclass(frozen=True, slots=True)
class Report:
    """A run: on what, when, with which versions, against what shares are, and its rows. `notes` say what was left out."""

    device: str
    date: str
    versions: Mapping[str, str]
    budget_s: float
    used_s: float
    product_tflops: float | None
    copy_gb_per_s: float | None
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def wrong(self) -> tuple[Row, ...]:
        """Contenders that computed something else."""
        return tuple(row for row in self.rows if row.status == "wrong")


def slug(report: Report) -> str:
    """The stem of its files: date and device."""
    return f"{report.date}-{re.sub(r'[^A-Za-z0-9]+', '-', report.device).strip('-')}"


def as_json(report: Report) -> str:
    """All of it; what was not measured is left out of a row."""
    rows = [{key: value for key, value in asdict(row).items() if value not in (None, "")} for row in report.rows]
    content = {field.name: getattr(report, field.name) for field in fields(report)}
    return json.dumps({**content, "versions": dict(report.versions), "rows": rows}, indent=1) + "\n"


def from_json(text: str) -> Report:
    """A report from its JSON."""
    content = json.loads(text)
    return Report(**{**content, "notes": tuple(content["notes"]), "rows": tuple(Row(**row) for row in content["rows"])})


def save(report: Report, folders: Sequence[Path]) -> None:
    """The JSON, in every folder, whole at any time."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".{slug(report)}.json"
        staging.write_text(as_json(report), encoding="utf-8")
        staging.replace(folder / f"{slug(report)}.json")


def write(report: Report, folders: Sequence[Path]) -> None:
    """The JSON and the pictures, in every folder."""
    save(report, folders)
    for folder in folders:
        draw(report, folder)


# ---- text


def table(report: Report) -> list[str]:
    """What is printed last: what is wrong, what failed, then one line for each workload and one column for each contender."""
    lines = [f"WRONG: {row.section} {row.workload} {row.contender}: error {row.error:.1e} in {row.where}" for row in report.wrong]
    failed = sorted((row for row in report.rows if row.status in ("failed", "hung")), key=lambda row: not row.counts)
    lines += [f"{row.status}: {row.section} {row.workload} {row.contender}: {row.note}" for row in failed[:12]]
    lines += [f"tests: {row.note}" for row in report.rows if row.section == "tests" and row.status == "ok"]
    lines.append(f"{report.device}, {report.date}, {', '.join(f'{name} {number}' for name, number in report.versions.items())}")
    if report.product_tflops is not None and report.copy_gb_per_s is not None:
        lines.append(f"cuBLAS 8192^3 bf16: {report.product_tflops:.0f} TFLOP/s; copy: {report.copy_gb_per_s:.0f} GB/s")
    for block in _BLOCKS:
        lines += _lines(report, block)
    return [*lines, *report.notes, f"{report.used_s:.0f} of {report.budget_s:.0f} s"]


def _lines(report: Report, block: Block) -> list[str]:
    mine = [row for row in report.rows if row.section == block.section and row.status not in ("skipped", "absent")]
    if not any(getattr(row, block.key) is not None for row in mine) and block.key not in _WITH_SHARE:
        return []
    contenders = list(dict.fromkeys(row.contender for row in mine))
    cells = {(row.workload, row.contender): _cell(row, block.key) for row in mine}
    places = list(dict.fromkeys(row.workload for row in mine))
    shown = places[: block.lines]
    if not shown:
        return []
    width = max(len(place) for place in (*shown, block.section))
    lines = ["", f"{block.section}: {block.unit}", " " * width + "".join(f"{name:>{_WIDTH}}" for name in contenders)]
    for place in shown:
        figures = "".join(f"{cells.get((place, name), '-'):>{_WIDTH}}" for name in contenders)
        lines += [f"{place:<{width}}{figures}"]
    return [*lines, *([f"{len(places) - len(shown)} more in the JSON"] if len(places) > len(shown) else [])]


def _cell(row: Row, key: str) -> str:
    value: float | None = getattr(row, key)
    if row.status != "ok":
        return row.status
    if value is None:
        return "-"
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {row.share:.2f}" if row.share is not None and key in _WITH_SHARE else text


def skipped(rows: Sequence[Row]) -> tuple[str, ...]:
    """How much of each section was left out, and who took no part."""
    counts = Counter(row.section for row in rows if row.status == "skipped")
    total = Counter(row.section for row in rows)
    notes = [f"{section}: {count} of {total[section]} skipped, its share of the budget was used" for section, count in counts.items()]
    return (*notes, *dict.fromkeys(f"{row.contender}: {row.note}" for row in rows if row.status == "absent"))


# ---- pictures


def draw(report: Report, folder: Path) -> tuple[Path, ...]:
    """One PNG for each section with rates, none without matplotlib."""
    if find_spec("matplotlib") is None:
        return ()
    found: list[Path] = []
    for block in _DRAWN:
        rows = [row for row in report.rows if row.section == block.section and getattr(row, block.key) is not None]
        if rows:
            found.append(folder / f"{slug(report)}-{block.section}.png")
            _bars(report, rows, block).savefig(found[-1], dpi=150, bbox_inches="tight")
    return tuple(found)


def _bars(report: Report, rows: Sequence[Row], block: Block) -> Any:
    """Horizontal bars, grouped by workload. Made without pyplot, so that no global state changes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    places = list(dict.fromkeys(row.workload for row in rows))[: block.lines]
    contenders = list(dict.fromkeys(row.contender for row in rows))
    figure: Any = Figure(figsize=(9, 1.2 + 0.14 * len(places) * (len(contenders) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    height = 1 / (len(contenders) + 1)
    for i, name in enumerate(contenders):
        mine = [(places.index(row.workload), getattr(row, block.key)) for row in rows if row.contender == name and row.workload in places]
        axes.barh([place + i * height for place, _ in mine], [value for _, value in mine], height=height, label=name)
    axes.set_yticks([place + (len(contenders) - 1) * height / 2 for place in range(len(places))], places, fontsize=7)
    axes.invert_yaxis()
    reference = report.product_tflops if block.key == "tflops" else report.copy_gb_per_s
    if reference:
        axes.axvline(reference, color="#777777", linewidth=0.8, linestyle="--")
    axes.set_xlabel(block.unit.partition(" and share")[0])
    axes.set_title(f"{block.section}: {report.device}, {report.date}", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False)
    return figure

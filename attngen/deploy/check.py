"""Is a folder of kernels what the code emits? Emits again and compares bytes and hashes; nothing is compiled."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngen import catalog
from attngen import target as targets
from attngen.deploy.order import MANIFEST, SCHEMA, Case, Order, entry, modules, rows, surface
from attngen.emit.deploy import render_package
from attngen.frontend.spec import Spec
from attngen.knobs import Knobs
from attngen.pipeline import Program, analyse, for_dtype
from attngen.runtime.kernels import Kernels, Options
from attngen.schedule.plan import ModuleSchedule, parse_schedule

_DIFF_LINES = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a folder is not what the code emits."""

    folder: str
    file: str
    problem: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((f"{self.folder}/{self.file}: {self.problem}", *self.lines))


def folders(out: Path) -> tuple[Path, ...]:
    """The folders of kernels in a folder, by name."""
    return tuple(sorted(path.parent for path in out.glob(f"*/{MANIFEST}"))) if out.is_dir() else ()


def check(folder: Path, load: Callable[[str], Spec] = catalog.load) -> tuple[Difference, ...]:
    """Compare a folder with its manifest, and with what the code emits now.

    Args:
        folder: as `generate` wrote it.
        load: the spec of a name.

    Returns:
        What differs; nothing if all is well. Schedules that rest on a compile are believed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed: dict[str, Any] = manifest["files"]
        given = {key: _tuple(value) for key, value in manifest["order"].items()}
        order = Order(given["arch"], given["dtype"], given["head_dim"], given["cubins"])
        if manifest["schema"] != SCHEMA:
            return (Difference(folder.name, MANIFEST, f"has schema {manifest['schema']}, this version writes {SCHEMA}"),)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (Difference(folder.name, MANIFEST, f"cannot be read: {error}"),)
    found = _hashes(folder, listed)
    if manifest["spec"] is None:
        return found
    spec = load(manifest["spec"])
    program = analyse(spec.cascade)
    if str(program.cascade).splitlines() != manifest["cascade"]:
        found = (*found, Difference(folder.name, MANIFEST, "was made of another cascade"))
    mine = modules(program, spec, folder.name, order)
    emitted = {
        **{f"{module.name}.py": module.source.text for module in mine.values()},
        "__init__.py": render_package(surface(program, spec, folder.name), rows(program, _schedules(program, manifest), mine)),
    }
    for file, text in emitted.items():
        path = folder / file
        if path.is_file() and path.read_bytes() != text.encode():
            found = (*found, Difference(folder.name, file, "is not what the code emits now", _diff(path.read_text(encoding="utf-8"), text)))
    return found


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def _hashes(folder: Path, listed: Mapping[str, Any]) -> tuple[Difference, ...]:
    found: list[Difference] = []
    for file, expected in listed.items():
        path = folder / file
        if not path.is_file():
            found.append(Difference(folder.name, file, "is missing"))
        elif entry(path.read_bytes()) != expected:
            found.append(Difference(folder.name, file, "was changed: its hash is not that of the manifest"))
    there = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    return (*found, *(Difference(folder.name, file, "is not in the manifest") for file in sorted(there - {*listed, MANIFEST})))


def _schedules(program: Program, manifest: Mapping[str, Any]) -> dict[Case, ModuleSchedule]:
    """Today's choice where it rests on measurements, else what the manifest says a compile settled."""
    found: dict[Case, ModuleSchedule] = {}
    for row in manifest["schedules"]:
        lengths = {axis: row["lengths"][axis] for axis in program.features}
        case = Case(row["arch"], row["dtype"], tuple(lengths.items()))
        kernels = Kernels(for_dtype(program, case.dtype), manifest["name"], Options(case.arch, local=False), Knobs())
        choice = kernels.choice(lengths, case.dtype, targets.get(case.arch))
        settled = parse_schedule(row["tiles"])
        found[case] = choice.schedule.replace({role: settled[role] for role in choice.unsettled})
    return found


def _diff(old: str, new: str) -> tuple[str, ...]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "there", "emitted", n=1, lineterm=""))
    return (*lines[:_DIFF_LINES], *([f"... and {len(lines) - _DIFF_LINES} lines more"] if len(lines) > _DIFF_LINES else []))

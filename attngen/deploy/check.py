"""Checks that a folder of kernels is what the code emits: emits again and compares bytes and hashes; nothing is compiled.

Nothing in the folder is executed or imported. Its spec comes from the command line or, by the name of the folder or of its manifest, from
the catalogue; a path in a manifest is reported, never followed. A folder without a spec is a difference.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from attngen import catalog
from attngen.deploy.manifest import BadManifest, Difference, Manifest, Settled, foreign_files, planted_byte_code, read_manifest
from attngen.deploy.order import MANIFEST, Case, Progress, binary, cases, modules, rows, silent, surface
from attngen.emit.package import render_package
from attngen.errors import AttngenError, SpecError
from attngen.frontend.spec import Spec
from attngen.knobs import Knobs
from attngen.pipeline import Program, analyse, for_dtype
from attngen.plan.options import Options
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import ModuleSchedule, parse_schedule
from attngen.targets import table as targets

_DIFF_LINES = 20


def folders(out: Path) -> tuple[Path, ...]:
    """The folders of kernels in a folder, sorted by name, including those without their manifest."""
    if not out.is_dir():
        return ()
    found = [path for path in out.iterdir() if not path.name.startswith(".") and path.is_dir()]
    return tuple(sorted(path for path in found if any(os.path.lexists(path / name) for name in (MANIFEST, "kernels.py"))))


def check_all(out: Path, named: Sequence[str], name: str | None = None, progress: Progress = silent) -> dict[str, tuple[Difference, ...]]:
    """Check the folders in `out`.

    Args:
        out: their parent folder.
        named: names of folders, or specs as named on the command line; empty for all folders.
        name: of the one folder that is checked against the one spec in `named`.
        progress: called with one line for each folder.

    Returns:
        The differences by folder.

    Raises:
        SpecError: there is no such folder, or a spec cannot be loaded. ArgumentError: there is no such spec.
    """
    there = {folder.name: folder for folder in folders(out)}
    given: dict[str, Spec | None] = {} if named else dict.fromkeys(there)
    for text in named:
        spec = catalog.load(text) if ":" in text or name is not None else None
        given[text if spec is None else name or spec.name] = spec
    missing = sorted(given.keys() - there.keys())
    if missing or not given:
        raise SpecError(f"{out} has no folder of kernels" + (f" called {', '.join(missing)}" if missing else ""))
    found: dict[str, tuple[Difference, ...]] = {}
    for folder, spec in given.items():
        progress(f"{folder}: comparing it with what the code emits")
        found[folder] = check(there[folder], spec)
    return found


def check(folder: Path, spec: Spec | None = None) -> tuple[Difference, ...]:
    """Compare a folder with its manifest, and with what the code emits.

    Args:
        folder: as `generate` wrote it.
        spec: of the folder; None looks it up in the catalogue.

    Returns:
        The differences. Schedules settled by a compile, resources of compiled kernels and binaries are not checked.
    """
    try:
        manifest = read_manifest(folder)
    except BadManifest as problem:
        return (Difference(folder.name, MANIFEST, str(problem), foreign=True),)
    found = (*foreign_files(folder, manifest), *planted_byte_code(folder, manifest))
    try:
        return (*found, *_compared(folder, manifest, _of_catalogue(folder, manifest) if spec is None else spec))
    except _Unknown as problem:
        return (*found, Difference(folder.name, MANIFEST, str(problem)))
    except AttngenError as error:
        return (*found, Difference(folder.name, MANIFEST, f"cannot be emitted: {error.rule}"))


class _Unknown(Exception):
    """The spec or the schedules of a folder are unknown."""


def _of_catalogue(folder: Path, manifest: Manifest) -> Spec:
    """The spec of a folder whose name or manifest names one of the catalogue."""
    said = manifest.spec
    name = folder.name if folder.name in catalog.names() else said
    if name in catalog.names() and said in (name, None):
        return catalog.load(name)
    if name is None:
        made = "names no spec of the catalogue"
    elif name in catalog.names():
        made = f"says that it was made of {said!r}, which is not the {name} of the catalogue"
    else:
        made = f"says that it was made of {said!r}, which is not in the catalogue"
    raise _Unknown(
        f"{made}; a check executes nothing that a folder names, so pass its spec: attngen generate --check SPEC --name {folder.name}"
    )


def _compared(folder: Path, manifest: Manifest, spec: Spec) -> tuple[Difference, ...]:
    """Differences of the files and the manifest of a folder from what the code emits for a spec."""
    program, name = analyse(spec.cascade), folder.name

    def differs(file: str, problem: str, lines: tuple[str, ...] = ()) -> Difference:
        return Difference(name, file, problem, lines)

    found: list[Difference] = []
    if tuple(str(program.cascade).splitlines()) != manifest.cascade:
        found.append(differs(MANIFEST, "was made of another cascade"))
    try:
        schedules = _schedules(program, spec, manifest)
    except _Unknown as problem:
        return (*found, differs(MANIFEST, str(problem)))
    mine = modules(program, spec, name, manifest.order)
    emitted = {
        **{f"{module.name}.py": module.source.text for module in mine.values()},
        "__init__.py": render_package(surface(program, spec, name), rows(program, schedules, mine)),
    }
    compiled = [(case, role, str(tile)) for case, schedule in schedules.items() for role, tile in schedule.tiles]
    binaries = [binary(case, role) for case, role, _ in compiled] if manifest.order.cubins else []
    found += [
        differs(MANIFEST, f"{'lists' if file in manifest.files else 'does not list'} {file}, unlike what the code writes")
        for file in sorted(manifest.files.keys() ^ {*emitted, *binaries})
    ]
    if tuple((case.arch, case.dtype, dict(case.lengths), role, tile) for case, role, tile in compiled) != manifest.compiled:
        found.append(differs(MANIFEST, "has resources of other kernels or tiles than its schedules"))
    for file, text in emitted.items():
        path = folder / file
        if path.is_file() and not path.is_symlink() and path.read_bytes() != text.encode():
            found.append(differs(file, "is not what the code emits now", _diff(path.read_text(encoding="utf-8", errors="replace"), text)))
    return tuple(found)


def _schedules(program: Program, spec: Spec, manifest: Manifest) -> dict[Case, ModuleSchedule]:
    """The current choice where it rests on measurements, else the schedule in the manifest, which a compile settled.

    Raises:
        _Unknown: the rows of the manifest do not match its order. AttngenError: a row is illegal.
    """
    wanted = cases(program, spec, manifest.order)
    told: dict[Case, Settled] = {}
    for row in manifest.schedules:
        told[Case(row.arch, row.dtype, tuple((axis, row.lengths.get(axis, 0)) for axis in program.features))] = row
    if len(told) != len(manifest.schedules) or tuple(told) != wanted or any({*row.lengths} != {*program.features} for row in told.values()):
        raise _Unknown("has other schedules than its order asks for")
    found: dict[Case, ModuleSchedule] = {}
    for case, row in told.items():
        kernels = Kernels(for_dtype(program, case.dtype), manifest.name, Options(case.arch, local=False), Knobs())
        choice = kernels.choice(Request(case.lengths, case.dtype, targets.get(case.arch)))
        settled = parse_schedule(row.tiles)
        if [role for role, _ in settled.tiles] != [role for role, _ in choice.schedule.tiles]:
            raise _Unknown(f"has a schedule of other kernels for {case.label}")
        found[case] = choice.schedule.replace({role: settled[role] for role in choice.unsettled})
    return found


def _diff(old: str, new: str) -> tuple[str, ...]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "there", "emitted", n=1, lineterm=""))
    return (*lines[:_DIFF_LINES], *([f"... and {len(lines) - _DIFF_LINES} lines more"] if len(lines) > _DIFF_LINES else []))

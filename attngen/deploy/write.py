"""Compiles a variant for all cases of an order and writes its folder.

A folder is written under a temporary name and published by a rename. It replaces an unchanged folder written by attngen, whose files and
byte code are then deleted; anything else is kept and refused. The bytes of a folder depend on the variant, the order and the tool versions,
not on time or location.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

from attngen import catalog
from attngen.cache.load import load_module
from attngen.cache.store import CacheWarning
from attngen.deploy.manifest import BYTE_CODE, read_manifest, written_files
from attngen.deploy.order import MANIFEST, SCHEMA, Case, Module, Order, Progress, binary, entry, modules, rows, silent, surface
from attngen.emit.package import render_package
from attngen.errors import ArgumentError, CacheError, UnsafeCacheDirectory
from attngen.frontend.spec import Spec
from attngen.knobs import Knobs
from attngen.pipeline import Program, Source, analyse
from attngen.plan.options import Options
from attngen.report.resources import compile_settled
from attngen.runtime.kernels import Kernels
from attngen.runtime.strict import Beforehand
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import ModuleSchedule
from attngen.stages.observe import watching
from attngen.targets import table as targets
from attngen.toolchain.settle import Emitted
from attngen.version import VERSION

# ---- writing


def generate(spec: Spec, name: str, order: Order, out: Path, *, named: str | None = None, progress: Progress = silent) -> Path:
    """Write one folder, replacing an older one.

    Args:
        spec: the variant.
        name: of the folder, an identifier.
        order: its targets, dtypes and lengths.
        out: the parent folder, created if missing.
        named: the spec as named on the command line; a check uses it if it is a name of the catalogue.
        progress: called with one line for each step.

    Returns:
        The folder.

    Raises:
        ArgumentError: `name` cannot name a folder. ForeignFolder: attngen did not write the existing folder, or not all of its files.
        UnknownArch, DtypeMismatch, DoesNotFit, CompileFailed. CacheError: nothing can be written.
    """
    catalog.check_folder_name(name)
    if spec.order is not None:
        raise ArgumentError(
            f"{name} permutes its tokens (order=), which folders of kernels do not support",
            remedy="Leave order out and permute q, k and v before the call, with a mask over the new positions.",
        )
    target = out / name
    if os.path.lexists(target):
        written_files(target)
        older = read_manifest(target).spec
        if older != named:
            progress(f"{name}: replaces kernels of {older or 'an unnamed spec'}")
    program = analyse(spec.cascade, watching(Knobs.from_env()))
    emitted = modules(program, spec, name, order)
    staging = _beside(target, "tmp")
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise CacheError(f"{out} cannot be written: {error}", remedy="Name another folder with --out.") from error
    try:
        for module in emitted.values():
            _write(staging / f"{module.name}.py", module.source.text.encode())
        built = _Built(program, spec, name, order, staging, emitted, progress)
        files = built.write()
        manifest = {**built.manifest(named), "files": {file: entry((staging / file).read_bytes()) for file in files}}
        _write(staging / MANIFEST, _json(manifest))
        _replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


class _Built:
    """One folder under construction."""

    def __init__(
        self, program: Program, spec: Spec, name: str, order: Order, staging: Path, emitted: Mapping[Case, Module], progress: Progress
    ) -> None:
        self.program, self.spec, self.name, self.order = program, spec, name, order
        self.staging, self.emitted, self.progress = staging, emitted, progress
        self.schedules: dict[Case, ModuleSchedule] = {}
        self.resources: list[dict[str, object]] = []
        self.binaries: list[str] = []
        # This command compiles whatever the knobs allow at run time.
        self.knobs = replace(Knobs.from_env(), strict=False)
        self.beforehand: dict[str, Beforehand] = {}

    def write(self) -> tuple[str, ...]:
        """Compile all cases and write everything except the manifest; returns the names of the files."""
        names = tuple(dict.fromkeys(module.name for module in self.emitted.values()))
        loaded = {name: load_module(self.staging / f"{name}.py", f"deployed_{self.name}_{name}") for name in names}
        for case, module in self.emitted.items():
            self.compile(case, module.source, loaded[module.name])
            self.store(case)
        text = render_package(surface(self.program, self.spec, self.name), rows(self.program, self.schedules, self.emitted))
        _write(self.staging / "__init__.py", text.encode())
        return ("__init__.py", *(f"{name}.py" for name in names), *self.binaries)

    def compile(self, case: Case, source: Source, module: ModuleType) -> None:
        target = targets.get(case.arch)
        kernels = Kernels(source.program, self.name, Options(case.arch, local=False), self.knobs)
        request, roles = Request(case.lengths, case.dtype, target), [kernel.role for kernel in source.program.kernels]
        self.progress(f"{self.name} {case.label}: compiling {', '.join(roles)}")
        schedule, compiled = compile_settled(kernels, request, roles, Emitted(source, module))
        self.schedules[case] = schedule
        for found in compiled:
            row = found.resources
            self.resources.append({**found.row(), "lengths": dict(case.lengths), "tile": str(schedule[row.role])})
            figures = f"{row.registers} registers, {row.spill_bytes} B spilled, {row.shared_bytes} B shared"
            self.progress(f"{self.name} {case.label} {row.role}: {figures}")
            if self.order.cubins:
                name = binary(case, row.role)
                _write(self.staging / name, found.compiled.binary)
                self.binaries.append(name)

    def store(self, case: Case) -> None:
        """Store the kernels that calls of the variant itself need in strict mode (`ATTNGEN_STRICT`)."""
        target = targets.get(case.arch)
        if target.name not in self.beforehand:
            self.beforehand[target.name] = Beforehand.of(self.spec, target, self.knobs)
        try:
            self.beforehand[target.name].store(dict(case.lengths), case.dtype)
        except UnsafeCacheDirectory as error:
            warnings.warn(f"nothing is stored for ATTNGEN_STRICT: {error.rule}", CacheWarning, stacklevel=2)

    def manifest(self, named: str | None) -> dict[str, object]:
        order = self.order
        return {
            "schema": SCHEMA,
            "name": self.name,
            "spec": named,
            "order": {"arch": order.archs, "dtype": order.dtypes, "head_dim": order.head_dims, "cubins": order.cubins},
            "cascade": str(self.program.cascade).splitlines(),
            "schedules": [
                {"arch": case.arch, "dtype": case.dtype, "lengths": dict(case.lengths), "tiles": str(schedule)}
                for case, schedule in self.schedules.items()
            ],
            "resources": self.resources,
            "versions": {"attngen": VERSION, "torch": _version("torch"), "triton": _version("triton")},
        }


def _json(manifest: Mapping[str, object]) -> bytes:
    """A manifest as text, with one line for each value and each item of a list."""
    lines: list[str] = []
    for key, value in sorted(manifest.items()):
        text = json.dumps(value, sort_keys=True, allow_nan=False)
        if isinstance(value, list | tuple) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(item, sort_keys=True, allow_nan=False)}" for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _replace(staging: Path, target: Path) -> None:
    """Move a finished folder, without byte code, to its place, and delete an older one file by file.

    Raises:
        ForeignFolder: the older folder is not, or no longer, as attngen wrote it; it is kept. CacheError: the disk refuses.
    """
    shutil.rmtree(staging / BYTE_CODE, ignore_errors=True)
    aside, old = _beside(target, "old"), ()
    try:
        if os.path.lexists(target):
            target.rename(aside)
            old = written_files(aside, target.name)
        staging.rename(target)
        for file in old:
            file.unlink()
        if os.path.lexists(aside):
            with suppress(FileNotFoundError):
                (aside / BYTE_CODE).rmdir()
            aside.rmdir()
    except OSError as error:
        raise CacheError(f"{target} cannot be written: {error}") from error
    finally:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)


def _beside(target: Path, kind: str) -> Path:
    """An unused name beside a folder."""
    return target.with_name(f".{kind}-{target.name}-{os.urandom(6).hex()}")


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""

"""Compile a variant for everything an order names and write its folder.

A folder is written under another name and appears by a rename. Its bytes depend on the variant, the order and the versions of the tools,
not on time or place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType

from attngen import target as targets
from attngen.cache.load import load_module
from attngen.deploy.order import MANIFEST, SCHEMA, Case, Module, Order, entry, modules, rows, surface
from attngen.emit.deploy import render_package
from attngen.errors import ArgumentError, CacheError
from attngen.frontend.spec import Spec
from attngen.knobs import Knobs
from attngen.pipeline import Program, Source, analyse
from attngen.runtime.kernels import Kernels, Options
from attngen.runtime.measure import Emitted
from attngen.runtime.resources import compile_settled
from attngen.schedule.choose import Request
from attngen.schedule.plan import ModuleSchedule
from attngen.version import VERSION

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


# ---- writing


def generate(spec: Spec, name: str, order: Order, out: Path, *, named: str | None = None, progress: Progress = _silent) -> Path:
    """Write one folder, in place of an older one.

    Args:
        spec: the variant.
        name: of the folder, an identifier.
        order: what it is for.
        out: the folder above it; made if missing.
        named: how the command line named the spec, for `check` to find it again.
        progress: called with one line for each step.

    Returns:
        The folder.

    Raises:
        ArgumentError: `name` is no identifier, or something else has that name. UnknownArch, DtypeMismatch, DoesNotFit, CompileFailed.
    """
    if not (name.isidentifier() and name.isascii()):
        raise ArgumentError(f"{name!r} cannot name a folder of kernels", remedy="Use letters, digits and underscores.")
    if spec.order is not None:
        raise ArgumentError(
            f"{name} takes its tokens in another order, which a folder of kernels does not do",
            remedy="Leave order out and bring q, k and v into that order before the call, with a mask over the new positions.",
        )
    target = out / name
    if target.exists() and not (target / MANIFEST).is_file():
        raise ArgumentError(f"{target} is there and is no folder of kernels", remedy="Choose another name, or remove it.")
    program = analyse(spec.cascade)
    emitted = modules(program, spec, name, order)
    out.mkdir(parents=True, exist_ok=True)
    staging = out / f".tmp-{name}-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
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
    """One folder while it is compiled."""

    def __init__(
        self, program: Program, spec: Spec, name: str, order: Order, staging: Path, emitted: Mapping[Case, Module], progress: Progress
    ) -> None:
        self.program, self.spec, self.name, self.order = program, spec, name, order
        self.staging, self.emitted, self.progress = staging, emitted, progress
        self.schedules: dict[Case, ModuleSchedule] = {}
        self.resources: list[dict[str, object]] = []
        self.binaries: list[str] = []

    def write(self) -> tuple[str, ...]:
        """Compile all cases and write everything but the manifest; returns the names of the files."""
        names = tuple(dict.fromkeys(module.name for module in self.emitted.values()))
        loaded = {name: load_module(self.staging / f"{name}.py", f"deployed_{self.name}_{name}") for name in names}
        for case, module in self.emitted.items():
            self.compile(case, module.source, loaded[module.name])
        text = render_package(surface(self.program, self.spec, self.name), rows(self.program, self.schedules, self.emitted))
        _write(self.staging / "__init__.py", text.encode())
        return ("__init__.py", *(f"{name}.py" for name in names), *self.binaries)

    def compile(self, case: Case, source: Source, module: ModuleType) -> None:
        target = targets.get(case.arch)
        kernels = Kernels(source.program, self.name, Options(case.arch, local=False), Knobs.from_env())
        request, roles = Request(case.lengths, case.dtype, target), [kernel.role for kernel in source.program.kernels]
        schedule, compiled = compile_settled(kernels, request, roles, Emitted(source, module))
        self.schedules[case] = schedule
        for found in compiled:
            row = found.resources
            self.resources.append({**found.row(), "lengths": dict(case.lengths), "tile": str(schedule[row.role])})
            figures = f"{row.registers} registers, {row.spill_bytes} B spilled, {row.shared_bytes} B shared"
            self.progress(f"{self.name} {case.label} {row.role}: {figures}")
            if self.order.cubins:
                name = f"{case.label.replace(' ', '.').replace('=', '')}.{row.role}.{'cubin' if target.backend == 'cuda' else 'hsaco'}"
                _write(self.staging / name, found.compiled.binary)
                self.binaries.append(name)

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
    """A manifest as text: a line for each value, and for each item of a list."""
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
    """Put a finished folder where an older one may be. Byte code from loading it stays behind."""
    shutil.rmtree(staging / "__pycache__", ignore_errors=True)
    aside = target.with_name(f".old-{target.name}-{os.getpid()}")
    try:
        if target.exists():
            target.rename(aside)
        staging.rename(target)
    except OSError as error:
        raise CacheError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""

"""The targets, dtypes and lengths of a folder of kernels, and its texts, for writing and for checking."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from attngen import catalog
from attngen.emit.package import Row, Surface
from attngen.errors import ArgumentError
from attngen.frontend.spec import Spec, captured_lengths
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.pipeline import Program, Source, build, for_dtype
from attngen.plan.feature_lengths import dtype_name, feature_lengths
from attngen.schedule.tile_schedule import ModuleSchedule
from attngen.targets import table as targets
from attngen.version import VERSION

SCHEMA = 1
MANIFEST = "manifest.json"
DEFAULT_ARCHS = ("sm80", "sm90")
DEFAULT_DTYPES = ("bfloat16",)
DEFAULT_HEAD_DIMS: tuple[tuple[int, ...], ...] = ((64,), (128,))


Progress = Callable[[str], None]
"""Called with one line for each slow step."""


def silent(_: str) -> None:
    """Reports nothing."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a folder is generated for.

    Attributes:
        archs, dtypes: names of targets and of dtypes.
        head_dims: lengths of the feature axes, one for all or one for each.
        cubins: whether binaries are written too.
    """

    archs: tuple[str, ...] = DEFAULT_ARCHS
    dtypes: tuple[str, ...] = DEFAULT_DTYPES
    head_dims: tuple[tuple[int, ...], ...] = DEFAULT_HEAD_DIMS
    cubins: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One combination of an order: a row of the table of tiles."""

    arch: str
    dtype: str
    lengths: tuple[tuple[str, int], ...]

    @property
    def cuts(self) -> Cuts:
        """The feature tiles of its lengths."""
        return cuts(dict(self.lengths))

    @property
    def label(self) -> str:
        """Such as "sm90 bfloat16 d=64 e=64"."""
        return " ".join((self.arch, self.dtype, *(f"{axis}={length}" for axis, length in self.lengths)))


def cases(program: Program, spec: Spec, order: Order) -> tuple[Case, ...]:
    """All distinct combinations of an order, in its sequence.

    Raises:
        UnknownArch, DtypeMismatch, ArgumentError: an entry is illegal.
    """
    known = captured_lengths(spec)
    found = [
        Case(targets.get(arch).name, dtype_name(dtype), tuple(feature_lengths(program.features, head_dim, known).items()))
        for arch in order.archs
        for dtype in order.dtypes
        for head_dim in order.head_dims
    ]
    return tuple(dict.fromkeys(found))


def surface(program: Program, spec: Spec, name: str) -> Surface:
    """The user-facing interface of a variant."""
    backward = program.backward
    variant = next((variant for variant in catalog.VARIANTS if variant.name == name), None)
    title = f"{variant.title[0].upper()}{variant.title[1:]}." if variant is not None else f"Attention variant {spec.name}."
    return Surface(
        name=name,
        title=title,
        version=VERSION,
        cascade=program.cascade,
        features=program.features,
        saved=tuple(item.name for item in backward.saved) if backward is not None else (),
        cotangents=backward.cotangents if backward is not None else (),
        arguments=tuple((argument.name, argument.pattern) for argument in spec.arguments),
        outputs=tuple((output.name, output.pattern) for output in spec.outputs),
        on_request=spec.on_request,
        keys=spec.keys,
        refused=tuple(name for name, _ in program.refused),
        ungraded=backward.ungraded if backward is not None else (),
    )


def rows(program: Program, schedules: Mapping[Case, ModuleSchedule], modules: Mapping[Case, Module]) -> tuple[Row, ...]:
    """The table of tiles of the folder."""
    return tuple(
        Row(case.arch, case.dtype, tuple(length for _, length in case.lengths), schedule.as_tiles(program.kernels), modules[case].name)
        for case, schedule in schedules.items()
    )


@dataclass(frozen=True, slots=True)
class Module:
    """A module of a folder."""

    name: str
    source: Source


def modules(program: Program, spec: Spec, name: str, order: Order) -> dict[Case, Module]:
    """The module for each case, shared by lengths with the same feature tiles and dtypes with the same rewrites."""
    texts: dict[str, Module] = {}
    sources: dict[tuple[str, Cuts], Source] = {}
    found: dict[Case, Module] = {}
    for case in cases(program, spec, order):
        key = (case.dtype, case.cuts)
        if key not in sources:
            sources[key] = build(for_dtype(program, case.dtype), name, case.cuts)
        module = Module(f"kernels_{len(texts) + 1}" if texts else "kernels", sources[key])
        found[case] = texts.setdefault(sources[key].text, module)
    return found


def binary(case: Case, role: str) -> str:
    """The name of the file with the binary of one kernel."""
    ending = "cubin" if targets.get(case.arch).backend == "cuda" else "hsaco"
    return f"{case.label.replace(' ', '.').replace('=', '')}.{role}.{ending}"


def entry(content: bytes) -> dict[str, object]:
    """The entry of a file in the manifest."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def parse_head_dims(texts: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """ "64" and "192,128" as lengths.

    Raises:
        ArgumentError: a text is not a list of lengths.
    """
    found: list[tuple[int, ...]] = []
    for text in texts:
        parts = text.split(",")
        if not all(part.strip().isdigit() for part in parts):
            raise ArgumentError(f"{text!r} is not a head dim", remedy="Write 128, or 192,128 where queries and values differ.")
        found.append(tuple(int(part) for part in parts))
    return tuple(found)

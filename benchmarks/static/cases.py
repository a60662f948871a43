"""The cases: kernels of the catalogue and their baselines. Compiles, and gives one row for each kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from attngen import catalog
from attngen.deploy import parse_head_dims
from attngen.errors import CompileFailed, DoesNotFit
from attngen.frontend.spec import captured_lengths
from attngen.knobs import Knobs
from attngen.plan.feature_lengths import feature_lengths
from attngen.plan.options import Options, freeze
from attngen.plan.token_layout import best_order
from attngen.report.resources import inspect_kernels
from attngen.runtime.kernel_table import KernelTable
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as target
from attngen.toolchain.compile import Compiled, CompileJob, compile_kernel
from attngen.toolchain.loop_report import Static, Work, statics
from benchmarks.static import flex, mods, one_loop, one_pass
from benchmarks.static.record import Row

DTYPE = "bfloat16"
TARGET = target.get("sm90")
PLAIN = ("full", "causal")
MODDED = ("alibi_causal", "softcap", "sliding_window")
FORWARD = ("forward",)
SPECIALISED = "specialised"
"""The warp-specialised form of the forward, at tiles of its own."""
SPECIALISED_VARIANTS = ("full", "causal", "softcap", "sliding_window", "document")
BASELINES = ("FlexAttention", "one-pass loop", "one loop in divided warps")
FLEX_ROLES: tuple[flex.Role, ...] = ("forward", "backward_columns")
# Tiles at which the loops written by hand do not spill; the specialised form has them too.
_TILES = {64: TileSchedule(128, 128, 8, 2), 128: TileSchedule(128, 128, 8, 2), 256: TileSchedule(128, 64, 8, 2)}


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of the catalogue or of `mods`, or the mask of a baseline, at feature lengths such as "128" or "192,128".

    `roles` are the kernels of a variant that count; all for none.
    """

    source: str
    name: str
    head_dim: str
    roles: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """As rows name their case."""
        return self.source, self.name, self.head_dim

    def __str__(self) -> str:
        return " ".join(self.key)


def cases() -> tuple[Case, ...]:
    """All cases, those of the catalogue first; of mods beyond it, and at the widest heads, the forward."""
    found = [Case("attngen", name, head_dim) for name in catalog.names() for head_dim in ("64", "128")]
    found += [Case("attngen", name, head_dim) for name in PLAIN for head_dim in ("256", "192,128", "576,512")]
    found += [Case("attngen", name, "256", FORWARD) for name in MODDED]
    found += [Case("attngen", name, head_dim, FORWARD) for name in mods.NAMES for head_dim in ("64", "128", "256")]
    found += [Case(SPECIALISED, name, head_dim, FORWARD) for name in SPECIALISED_VARIANTS for head_dim in ("64", "128", "256")]
    return (*found, *(Case(source, name, head_dim) for source in BASELINES for name in PLAIN for head_dim in ("64", "128", "256")))


def measure(case: Case, roles: Collection[str] | None = None) -> tuple[Row, ...]:
    """Compile the kernels of a case.

    Args:
        case: to compile.
        roles: which kernels of a variant; those of the case by default.

    Raises:
        DoesNotFit: no tile fits. CompileFailed: the compiler refused a kernel.
    """
    if case.source in ("attngen", SPECIALISED):
        return tuple(_emitted(case, roles or case.roles or None))
    head_dim = int(case.head_dim)
    if case.source == "one-pass loop":
        return (_baseline(case, "forward", *_by_hand(one_pass.one_pass_kernel, case.name, head_dim)),)
    if case.source == "one loop in divided warps":
        job, tile = _by_hand(one_loop.one_loop_kernel, case.name, head_dim)
        # Triton makes three groups from the given warps: one producer and two consumers with equal loops.
        row = _baseline(case, "forward", replace(job, num_warps=4), tile)
        return (replace(row, loops=row.loops[:1]),)
    found: list[Row] = []
    for role in FLEX_ROLES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_baseline(case, role, *_flex(case.name, head_dim, role, Path(folder))))
    return tuple(found)


def refused(case: Case, roles: Collection[str] | None = None) -> tuple[Row, ...] | str:
    """The same, or why not."""
    try:
        return measure(case, roles)
    except (CompileFailed, DoesNotFit) as error:
        return str(error).splitlines()[0]


def _emitted(case: Case, roles: Collection[str] | None) -> Iterator[Row]:
    name = f"{mods.__name__}:{case.name}" if case.name in mods.NAMES else case.name
    spec = best_order(catalog.load(name), TARGET)
    streamed = _TILES[int(case.head_dim)].streamed if case.source == SPECIALISED else None
    form = {"forward": {"SPECIALISED": True, "BLOCK_N": streamed, "num_stages": 2}}
    options = Options(TARGET.name, freeze(form) if case.source == SPECIALISED else None)
    table = KernelTable(spec.cascade, spec.name, options, Knobs.from_env())
    lengths = feature_lengths(table.axes.features, parse_head_dims([case.head_dim])[0], captured_lengths(spec))
    for item in inspect_kernels(table, lengths, DTYPE, TARGET, roles):
        yield _row(case, item.resources.role, item.task.tile, item.compiled, item.loops())


def _baseline(case: Case, role: str, job: CompileJob, tile: TileSchedule) -> Row:
    """An iteration of the forward has two dots and loads two tiles; one of the dK/dV kernel has four dots and loads two."""
    compiled = compile_kernel(job)
    streamed, head_dim = tile.streamed or 0, int(case.head_dim)
    products = 2 if role == "forward" else 4
    work = Work(2 * products * tile.resident * streamed * head_dim, 4 * streamed * head_dim)
    return _row(case, role, tile, compiled, statics(compiled, work, TARGET, tile.num_warps))


def _row(case: Case, role: str, tile: TileSchedule, compiled: Compiled, loops: tuple[Static, ...]) -> Row:
    return Row(
        source=case.source,
        name=case.name,
        role=role,
        head_dim=case.head_dim,
        tile=str(tile),
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        shared_bytes=compiled.shared_bytes,
        loops=tuple(asdict(loop) for loop in loops),
    )


def _flex(mask: str, head_dim: int, role: flex.Role, folder: Path) -> tuple[CompileJob, TileSchedule]:
    rendered = flex.render(mask, head_dim, role)
    kernel = getattr(rendered.load(folder), flex.NAME)
    return _job(kernel, dict(rendered.signature), {}, rendered.tile, tuple(rendered.signature)), rendered.tile


def _by_hand(kernel: object, mask: str, head_dim: int) -> tuple[CompileJob, TileSchedule]:
    tile = _TILES[head_dim]
    pointers = {"q_ptr": "*bf16", "k_ptr": "*bf16", "v_ptr": "*bf16", "o_ptr": "*bf16", "lse_ptr": "*fp32"}
    blocks = {"DIM": head_dim, "BLOCK_M": tile.resident, "BLOCK_N": tile.streamed, "CAUSAL": mask == "causal"}
    return _job(kernel, {**pointers, "n": "i32", "scale": "fp32"}, blocks, tile, (*pointers, "n")), tile


def _job(
    fn: object, signature: dict[str, str], constexprs: dict[str, object], tile: TileSchedule, divisible: tuple[str, ...]
) -> CompileJob:
    return CompileJob(
        fn=fn,
        signature=signature,
        constexprs=constexprs,
        target=TARGET,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        divisible=divisible,
    )

"""What the kernels of a variant take on a target: real compiles, no GPU needed.

Takes the `Kernels` of a variant with feature lengths, dtype and target, gives one frozen `Resources` a kernel, with its binary and, when
asked, what its main loops take. Schedules are those a call would run with. Nothing is launched.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attngen.errors import CompileFailed
from attngen.interpreter.triton_api import knobs
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import ModuleSchedule
from attngen.targets.table import Target
from attngen.toolchain.compile import Compiled, compile_many
from attngen.toolchain.loop_report import Static, statics, table_row, work_of
from attngen.toolchain.settle import Emitted, Task, compile_job, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """One compiled kernel: `name` is that of the variant.

    `block_m` and `block_n` are the tile along queries and along keys, None where a kernel has no such tile. Registers and spills are per
    thread; `spill_bytes` counts loads and stores in the whole text, `loop_spill_bytes` those of one turn of the main loop.
    """

    name: str
    role: str
    arch: str
    dtype: str
    num_warps: int
    num_stages: int
    block_m: int | None
    block_n: int | None
    registers: int
    spill_bytes: int
    loop_spill_bytes: int
    serialized_wgmma: bool
    shared_bytes: int
    shared_bytes_predicted: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """A kernel's figures, what the compiler made, and of what."""

    resources: Resources
    compiled: Compiled
    task: Task

    def row(self) -> dict[str, object]:
        """The figures, as JSON takes them."""
        return asdict(self.resources)

    def loops(self) -> tuple[Static, ...]:
        """The main loops, read from the machine code; none for AMD's targets and for kernels without tensor-core loops."""
        request, tile = self.task.request, self.task.tile
        held = self.task.emitted.source.program.facts_of(self.task.role).work
        return statics(self.compiled, work_of(held, request.extents, request.dtype, tile), request.target, tile.num_warps)


def inspect_kernels(
    table: KernelTable, lengths: Mapping[str, int], dtype: str, target: Target, roles: Collection[str] | None = None, *, few: bool = False
) -> tuple[Inspected, ...]:
    """Compile kernels of a variant as a call would, those of both forms of its backward.

    Args:
        table: of the variant.
        lengths: of the feature axes.
        dtype: of the arguments, by its short name.
        target: where it would run.
        roles: which kernels; all by default.
        few: those of calls of few queries with split-KV instead.

    Raises:
        CompileFailed: Triton or the assembler refused a kernel. DoesNotFit: no tile fits the target.
    """
    found = dict[str, Inspected]()
    for form in (table.kernels(ProgramKey(dtype, FORWARD_ONLY, split=True)),) if few else table.forms(dtype):
        mine = {kernel.role for kernel in form.program.kernels if roles is None or kernel.role in roles} - found.keys()
        if mine:
            request = Request(tuple(lengths.items()), dtype, target, "decode" if few else "long")
            found |= {item.resources.role: item for item in compile_settled(form, request, mine)[1]}
    return tuple(found.values())


def compile_settled(
    kernels: Kernels, request: Request, roles: Collection[str], loaded: Emitted | None = None
) -> tuple[ModuleSchedule, tuple[Inspected, ...]]:
    """Compile some kernels with the schedule that calls run with; a tile that a compiler fails on gives way to another.

    Args:
        kernels: of a variant, for the dtype of the request.
        request: what for.
        roles: of the kernels.
        loaded: the module, if it is loaded already.

    Raises:
        CompileFailed: no tile of a kernel compiles.
    """
    while True:
        whole = kernels.settled(request)
        source = kernels.source(request.extents, whole.alternates)
        module = loaded or Emitted(source, kernels.module(source, "compiled", request.target, request.extents, request.dtype))
        tasks = [Task(module, role, request, tile) for role, tile in whole.tiles if role in roles]
        results = _compiled(tasks)
        pairs = tuple(zip(tasks, results, strict=True))
        failed = [(task.role, task.tile, result.rule) for task, result in pairs if isinstance(result, CompileFailed)]
        if failed:
            kernels.refuse(request, failed)
        else:
            return whole, tuple(_inspected(kernels.name, task, result) for task, result in pairs if not isinstance(result, CompileFailed))


def _compiled(tasks: Sequence[Task]) -> tuple[Compiled | CompileFailed, ...]:
    with knobs.compilation.scope():
        # Binaries name neither files nor lines, so that they are the same wherever the module lies.
        knobs.compilation.disable_line_info = True
        return compile_many([compile_job(task) for task in tasks], workers=max(1, min(len(tasks), os.cpu_count() or 1)))


def _inspected(name: str, task: Task, compiled: Compiled) -> Inspected:
    row = row_of(task, compiled)
    program = task.emitted.source.program
    kernel = next(kernel for kernel in program.kernels if kernel.role == task.role)
    blocks = {kernel.resident: task.tile.resident, kernel.streamed: task.tile.streamed}
    resources = Resources(
        name=name,
        role=task.role,
        arch=row.arch,
        dtype=row.dtype,
        num_warps=compiled.num_warps,
        num_stages=compiled.num_stages,
        block_m=blocks.get(program.streamed.resident),
        block_n=blocks.get(program.streamed.streamed),
        registers=row.registers,
        spill_bytes=row.spill_bytes,
        loop_spill_bytes=row.loop_spill_bytes,
        serialized_wgmma=row.serialized,
        shared_bytes=row.shared_bytes,
        shared_bytes_predicted=row.shared_bytes_predicted,
    )
    return Inspected(resources, compiled, task)


# ---- for people and files


def report(found: Iterable[Inspected]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Kernels with their main loops.

    Returns:
        The figures of each kernel with its loops under "loops", as JSON takes them; and a table of one row a loop, those of a kernel in the
        order of its text.
    """
    looked = [(item.resources.role, item.row(), item.loops()) for item in found]
    whole = [{**row, "loops": [asdict(loop) for loop in loops]} for _, row, loops in looked]
    return whole, [{"role": role, "loop": number, **table_row(loop)} for role, _, loops in looked for number, loop in enumerate(loops, 1)]


def write_binaries(found: Iterable[Inspected], folder: Path) -> None:
    """Write each kernel to `folder`, made if need be, as <name>.<role>.cubin or, for AMD, .hsaco."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in found:
        suffix = "cubin" if item.task.request.target.backend == "cuda" else "hsaco"
        (folder / f"{item.resources.name}.{item.resources.role}.{suffix}").write_bytes(item.compiled.binary)

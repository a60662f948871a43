"""Compile the kernels of an emitted module for a target and report what their tiles cost.

Turns a module, a request and a schedule into compile jobs, reads registers, spills and shared memory, and settles a schedule that no
table vouches for: at most one compile for each kernel and one for each rejected leader. Nothing is launched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from attngen.alternates.known_alternates import ALTERNATES
from attngen.emit.identifiers import tensor_name
from attngen.emit.params import Memory, Param
from attngen.errors import CompileFailed
from attngen.interpreter.triton_api import tl
from attngen.ir.cascade import Input
from attngen.kernel.feature_tiles import tile_widths
from attngen.kernel.partition import Kernel
from attngen.pipeline import Source
from attngen.schedule.choose import Choice, Request
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.tables import Measured
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule
from attngen.toolchain import sass
from attngen.toolchain.compile import Compiled, CompileJob, compile_many

_TYPES = {
    "float16": ("fp16", tl.float16),
    "bfloat16": ("bf16", tl.bfloat16),
    "float32": ("fp32", tl.float32),
    "float64": ("fp64", tl.float64),
}
_CAPTURED = {"float": "fp32", "int": "i64", "bool": "i1"}
_MEMORIES: dict[Memory, str] = {"tile_list": "*i16", "tile_counts": "*i32", "gradient_keys": "*i32"}
_NUMBERS = {"float": "fp32", "int": "i32", "bool": "i1"}
_TENSOR_MEMORY_COLUMNS = 512
LOOP_SPILL_BYTES = 64
"""A leader that spills more than this in one turn of its main loop is worth a second compile."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """An emitted module: its source and the same, imported."""

    source: Source
    module: ModuleType


@dataclass(frozen=True, slots=True)
class Task:
    """A kernel of a module to compile: extents, dtype and target in `request`, its schedule in `tile`."""

    emitted: Emitted
    role: str
    request: Request
    tile: TileSchedule


@dataclass(frozen=True, slots=True)
class Settled:
    """A schedule that was compiled, with what each kernel takes, what the rejected leaders took, and the tiles that a compiler failed on.
    `open` are kernels of which nothing compiled: in the schedule stands their leader."""

    schedule: ModuleSchedule
    measured: tuple[Measured, ...]
    rejected: tuple[tuple[str, TileSchedule, str], ...]
    failed: tuple[tuple[str, TileSchedule, str], ...] = ()
    open: tuple[str, ...] = ()


# ---- jobs


def compile_job(task: Task) -> CompileJob:
    """The job that compiles one kernel as a call would, strides and pointers aligned."""
    emitted, role, request, tile = task.emitted, task.role, task.request, task.tile
    kernel, lowered = next(item for item in emitted.source.lowered if item[0].role == role)
    signature = {str(param.name): _type(emitted.source, kernel, param, request) for param in lowered.params}
    blocks = ModuleSchedule(((role, tile),)).as_tiles((kernel,))[role]
    accumulator = tl.float64 if request.dtype == "float64" else tl.float32
    values: dict[str, object] = {**blocks, "DTYPE": _TYPES[request.dtype][1], "ACC": accumulator}
    for axis, length in request.dims:
        values |= {f"DIM_{axis.upper()}": length, **dict(zip(emitted.source.shapes.constants(axis), tile_widths(length), strict=False))}
    more: dict[str, object] = {str(name): bool(blocks.get(str(name), False)) for name in lowered.context.flags}
    name, num_warps = lowered.context.name, tile.num_warps
    if tile.alternate:
        alternate = ALTERNATES[tile.alternate]
        launch = alternate.launch(tile.num_warps, tile.num_stages)
        name, num_warps, more = alternate.function, launch.num_warps, dict[str, object](launch.constants)
    return CompileJob(
        fn=getattr(emitted.module, str(name)),
        signature=signature,
        constexprs={name: values[name] for name in lowered.constexprs} | more,
        target=request.target,
        num_warps=num_warps,
        num_stages=tile.num_stages,
        divisible=tuple(str(param.name) for param in lowered.params if param.is_pointer or param.kind == "stride"),
    )


def _type(source: Source, kernel: Kernel, param: Param, request: Request) -> str:
    """Triton's name for the type of one run-time parameter."""
    items = (*source.program.cascade.inputs, *kernel.inputs)
    item = next((item for item in items if tensor_name(item.name) == param.tensor), None)
    if not param.is_pointer:
        return _NUMBERS[item.kind] if param.kind == "number" and item is not None else "i32"
    if param.memory in _MEMORIES:
        return _MEMORIES[param.memory]
    if param.tensor in {tensor_name(name) for runs in kernel.document_extents for name in runs.names}:
        return "*i32"
    if item is not None and item.axes is None:
        return f"*{_CAPTURED[item.kind]}"
    if item is not None and item.name in request.singles:
        return "*fp32"
    return f"*{_TYPES[request.dtype][0]}" if _is_operand(source, kernel, param, item) else _sums_type(request.dtype)


def _is_operand(source: Source, kernel: Kernel, param: Param, item: Input | None) -> bool:
    """Whether a tensor has the dtype of operands: arguments, and what has features but is no sum in memory."""
    if item in source.program.cascade.inputs:
        return True
    axes = item.axes if item is not None else next((step.axes for step in kernel.steps if tensor_name(step.name) == param.tensor), ())
    sums = (*source.shapes.states, *(name for other in source.program.kernels for name in other.atomic_adds))
    return bool(set(axes or ()) & set(kernel.features)) and param.tensor not in [tensor_name(name) for name in sums]


def _sums_type(dtype: str) -> str:
    return "*fp64" if dtype == "float64" else "*fp32"


# ---- results


def measure(tasks: Sequence[Task], workers: int = 2) -> tuple[Measured | CompileFailed, ...]:
    """Compile kernels side by side.

    Args:
        tasks: in any order and number.
        workers: compiles at a time.

    Returns:
        What came out, in the order of `tasks`; a refusal of the compiler stands in its place.
    """
    compiled = compile_many([compile_job(task) for task in tasks], workers)
    return tuple(
        result if isinstance(result, CompileFailed) else row_of(task, result) for task, result in zip(tasks, compiled, strict=True)
    )


def row_of(task: Task, compiled: Compiled) -> Measured:
    """What a compiled kernel takes, as a row of the table."""
    request, tile = task.request, task.tile
    held = task.emitted.source.program.facts_of(task.role).work
    return Measured(
        arch=request.target.name,
        dtype=request.dtype,
        length=request.length,
        structure=held.key(request.extents),
        dims=",".join(str(length) for axis, length in request.dims if axis in held.features),
        rank="chosen",
        special=held.arithmetic[0],
        simple=held.arithmetic[1],
        tile=str(tile),
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        loop_spill_bytes=_loop_spill_bytes(compiled, request),
        serialized=compiled.serialized_wgmma,
        shared_bytes=compiled.shared_bytes,
        shared_bytes_predicted=shared_bytes(held, request.extents, request.dtype, tile, request.target),
        tensor_memory_columns=compiled.tensor_memory_columns,
    )


def _loop_spill_bytes(compiled: Compiled, request: Request) -> int:
    """Bytes that one turn of the main loop moves; on AMD and without tensor-core loops nobody can say, so all of them."""
    if not compiled.spill_bytes:
        return 0
    if request.target.backend != "cuda":
        return compiled.spill_bytes
    text = sass.disassemble(compiled.binary)
    found = sass.main_loops(text)
    if not found:
        return max((loop.spill_bytes() for loop in sass.loops(text)), default=0)
    return max(loop.spill_bytes() for loop in found)


def fault(row: Measured | CompileFailed, request: Request) -> str:
    """Why a compiled tile is not good enough, "" if it is."""
    if isinstance(row, CompileFailed):
        return "does not compile"
    if row.shared_bytes > request.target.shared_bytes:
        return f"needs {row.shared_bytes} B of shared memory (a program may have {request.target.shared_bytes})"
    if row.tensor_memory_columns > _TENSOR_MEMORY_COLUMNS:
        return f"needs {row.tensor_memory_columns} columns of tensor memory (there are {_TENSOR_MEMORY_COLUMNS})"
    if row.serialized:
        return "its wgmma run one after the other"
    if row.loop_spill_bytes > LOOP_SPILL_BYTES:
        return f"spills {row.loop_spill_bytes} B a turn"
    return ""


# ---- settling


def settle(emitted: Emitted, choice: Choice, request: Request, roles: Iterable[str] | None = None) -> Settled:
    """Compile the leaders of kernels and replace those that are no good by the next candidate, once.

    Args:
        emitted: the module.
        choice: made by `choose`.
        request: what it was made for.
        roles: kernels to settle; by default those whose tile rests on no measurement of its own.

    Returns:
        The schedule with what its kernels take, to be stored by the caller.

    Raises:
        CompileFailed: neither a leader nor its alternative fits.
    """
    wanted = choice.unsettled if roles is None else tuple(roles)
    tried = _compiled(emitted, request, [(role, choice.schedule[role]) for role in wanted])
    fallbacks = {reason.role: reason.fallback for reason in choice.reasons}
    again = [(role, tile) for role, _, row in tried if fault(row, request) and (tile := fallbacks[role]) is not None]
    tried += _compiled(emitted, request, again)
    settled: dict[str, Measured] = {}
    rejected: list[tuple[str, TileSchedule, str]] = []
    failed = tuple((role, tile, row.rule) for role, tile, row in tried if isinstance(row, CompileFailed))
    for role in wanted:
        mine = [(tile, row) for name, tile, row in tried if name == role and not isinstance(row, CompileFailed)]
        if not mine:
            continue
        best = min(mine, key=lambda item: _badness(item[1], request))[1]
        settled[role] = _usable(role, best, request)
        rejected += [(role, tile, fault(row, request) or "the other spills less") for tile, row in mine if row is not best]
    schedule = choice.schedule.replace({role: row.schedule for role, row in settled.items()})
    return Settled(schedule, tuple(settled.values()), tuple(rejected), failed, tuple(role for role in wanted if role not in settled))


def _compiled(
    emitted: Emitted, request: Request, tiles: Sequence[tuple[str, TileSchedule]]
) -> list[tuple[str, TileSchedule, Measured | CompileFailed]]:
    rows = measure([Task(emitted, role, request, tile) for role, tile in tiles])
    return [(role, tile, row) for (role, tile), row in zip(tiles, rows, strict=True)]


def _badness(row: Measured, request: Request) -> tuple[bool, bool, int, int]:
    """What is worse compares greater: not runnable, serialised, spills in the loop, spills at all."""
    if not _fits(row, request):
        return (True, True, 0, 0)
    return (False, row.serialized, row.loop_spill_bytes, row.spill_bytes)


def _fits(row: Measured, request: Request) -> bool:
    return row.shared_bytes <= request.target.shared_bytes and row.tensor_memory_columns <= _TENSOR_MEMORY_COLUMNS


def _usable(role: str, row: Measured, request: Request) -> Measured:
    """A tile that runs, good or not.

    Raises:
        CompileFailed: it does not.
    """
    if not _fits(row, request):
        raise CompileFailed(
            f"the kernel {role} with {row.tile} {fault(row, request)} on {request.target.name}",
            remedy=f'Give a smaller tile: schedule={{"{role}": ...}}.',
        )
    return row

"""What one turn of a main loop takes on an NVIDIA target, read from its machine code: the static gate of performance.

Takes a `Compiled` kernel with the `Work` that its tile has to do, gives a frozen `Static` for each of its main loops: instructions, shapes
of tensor-core instructions, exponentials and how many of them run beside the tensor cores, barriers, copies, spills, products that warps
repeat, and cycles of one SM with the share of the tensor peak that they allow. No GPU is needed and nothing is timed: latencies, L2 and
device memory are left out, so the share bounds what a kernel may reach and orders kernels among each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import columns
from attngen.schedule.cost.time import CompiledCost
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target
from attngen.toolchain import sass
from attngen.toolchain.compile import Compiled
from attngen.toolchain.issue_model import SCHEDULERS, SHARED_BYTES_PER_CLOCK, operand_bytes, rate_of, turn_alone
from attngen.toolchain.sass import Instruction, Loop

_NOTE = re.compile(r"\((C75\d\d)\)")
# Where wgmma exists, the older instruction runs at half of the rate.
_OLDER_RATE = 1 / 2
# What the driver keeps of shared memory for every program, and the unit in which a warp gets registers, per thread.
_RESERVED_BYTES = 1024
_REGISTER_UNIT = 8
_PROGRAMS = 32

_BARRIERS = frozenset({"BAR", "UCGABAR_WAIT"})
_BULK = frozenset({"UTMALDG", "UBLKCP"})
_SHARED_ACCESS = frozenset({"LDS", "STS", "LDSM", "STSM", "LDGSTS"})


@dataclass(frozen=True, slots=True)
class Work:
    """What one turn has to do: `flops` of its products, a multiply-add counting as two, and `fetched_bytes` of the tiles it fetches."""

    flops: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Cycles:
    """Cycles that one program's turn keeps each unit of an SM busy: tensor cores, special function unit, issue slots, and shared memory,
    which is L1 as well.

    Operands of tcgen05 are not counted with shared memory, for its opcodes carry no shape.
    """

    tensor: float
    special: float
    issue: float
    shared: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """One main loop; counts are instructions of one warp in one turn, inner branches taken.

    Attributes:
        instructions: all of them.
        tensor: opcodes of the tensor cores, which carry the shapes, with how often each occurs.
        exp2: MUFU.EX2.
        exp2_overlap, alu_overlap: share of them, and of the float arithmetic, that is issued while a wgmma is in flight; 0 if serialised.
        barriers: of all warps.
        bulk_copies, async_copies, loads: from global memory, by TMA, by LDGSTS, and to registers.
        spill_bytes: stored and loaded per thread.
        notes: of ptxas on wgmma, such as "C7511". serialized: it runs them one after the other.
        repeated: flops that the warps issue over those of `Work`; None where opcodes carry no shape (tcgen05). 2 means that every product
            is formed twice.
        programs_per_sm: that registers, shared memory and threads allow.
        cycles: of one turn of one program.
        peak_share: share of the tensor peak at which `Work` is done if nothing waits but what is seen here.
    """

    instructions: int
    tensor: tuple[tuple[str, int], ...]
    exp2: int
    exp2_overlap: float
    alu_overlap: float
    barriers: int
    bulk_copies: int
    async_copies: int
    loads: int
    spill_bytes: int
    notes: tuple[str, ...]
    serialized: bool
    repeated: float | None
    programs_per_sm: int
    cycles: Cycles
    peak_share: float


def work_of(structure: Structure, lengths: Mapping[str, int], dtype: str, tile: TileSchedule) -> Work:
    """The work of one turn of a kernel: exact products of its contractions and of its narrow products, and the tiles that pass.

    Args:
        structure: of the kernel.
        lengths: of its feature axes.
        dtype: of its tensors.
        tile: its schedule.
    """
    pairs = tile.resident * (tile.streamed or 0)
    width = sum(lengths[axis] for axis in (*structure.dots, *structure.carried, *structure.atomic_adds)) + structure.bias_columns
    passing = (tile.streamed or 0) * sum(columns(lengths[axis]) for axis in structure.streamed_tiles)
    again = tile.resident * sum(columns(lengths[axis]) for axis in structure.reloaded_tiles)
    return Work(2 * pairs * width, (passing + again) * DTYPE_BYTES[dtype])


def statics(compiled: Compiled, work: Work, target: Target, num_warps: int) -> tuple[Static, ...]:
    """The main loops of a kernel, in the order of its text; none where it has no loop with tensor-core instructions.

    Args:
        compiled: for `target`, which is one of NVIDIA's.
        work: of one turn.
        target: what it was compiled for.
        num_warps: that walk the loop together, without those that Triton adds to divide them.

    Raises:
        InternalError: the binary cannot be disassembled.
    """
    if target.backend != "cuda":
        return ()
    return tuple(_static(loop, compiled, work, target, num_warps) for loop in sass.main_loops(sass.disassemble(compiled.binary)))


def programs_per_sm(compiled: Compiled, target: Target) -> int:
    """How many programs an SM holds at a time, by what the compiled kernel takes; at least 1."""
    threads = compiled.num_warps * target.warp_size
    registers = ceil(compiled.registers / _REGISTER_UNIT) * _REGISTER_UNIT
    by_shared = target.shared_bytes_per_sm // (compiled.shared_bytes + _RESERVED_BYTES)
    return max(1, min(by_shared, target.registers_per_sm // (threads * registers), target.threads_per_sm // threads, _PROGRAMS))


def table_row(loop: Static) -> dict[str, int | str]:
    """A loop as a row for people: overlaps and the share of the peak in percent, counts of a kind together in one column."""
    copies = {"TMA": loop.bulk_copies, "LDGSTS": loop.async_copies, "LDG": loop.loads}
    cycles = loop.cycles
    return {
        "instr": loop.instructions,
        "tensor": " ".join(f"{count}x{'.'.join(opcode.split('.')[:2])}" for opcode, count in loop.tensor),
        "repeat": "-" if loop.repeated is None else f"{loop.repeated:.2f}",
        "exp2": loop.exp2,
        "exp2%": round(100 * loop.exp2_overlap),
        "alu%": round(100 * loop.alu_overlap),
        "bar": loop.barriers,
        "copies": " ".join(f"{count}x{name}" for name, count in copies.items() if count) or "-",
        "spill_B": loop.spill_bytes,
        "wgmma": " ".join((*loop.notes, *(["serialised"] if loop.serialized else []))) or "-",
        "per_SM": loop.programs_per_sm,
        "cycles tensor/exp/issue/shared": f"{cycles.tensor:.0f}/{cycles.special:.0f}/{cycles.issue:.0f}/{cycles.shared:.0f}",
        "peak%": round(100 * loop.peak_share),
    }


# ---- one loop


def _static(loop: Loop, compiled: Compiled, work: Work, target: Target, num_warps: int) -> Static:
    counts = loop.counts()
    tensor = Counter(i.opcode for i in loop.body if i.family in sass.TENSOR_CORE)
    serialized = compiled.serialized_wgmma
    exp2_overlap, alu_overlap = (0.0, 0.0) if serialized else (loop.exp2_overlap(), loop.alu_overlap())
    cycles = _cycles(loop, work, target, num_warps)
    programs = programs_per_sm(compiled, target)
    alone = _alone(loop, cycles, target, num_warps)
    peak = work.flops / target.bf16_flops_per_clock
    return Static(
        instructions=len(loop.body),
        tensor=tuple(tensor.items()),
        exp2=counts["MUFU.EX2"],
        exp2_overlap=exp2_overlap,
        alu_overlap=alu_overlap,
        barriers=sum(counts[family] for family in _BARRIERS),
        bulk_copies=sum(counts[family] for family in _BULK),
        async_copies=counts["LDGSTS"],
        loads=counts["LDG"],
        spill_bytes=loop.spill_bytes(),
        notes=tuple(dict.fromkeys(note for warning in compiled.warnings for note in _NOTE.findall(warning))),
        serialized=serialized,
        repeated=_repeated(loop, work, num_warps),
        programs_per_sm=programs,
        cycles=cycles,
        peak_share=peak / iteration_cycles(cycles, alone, programs),
    )


def seen(compiled: Compiled, work: Work, target: Target, num_warps: int, loop: int = 0) -> CompiledCost | None:
    """What the scheduler wants to know of a compiled kernel and one of its main loops: the first is that over full tiles, the last that
    under masks; None where nobody can say."""
    loops = statics(compiled, work, target, num_warps)
    if not loops or not work.flops:
        return None
    cycles = work.flops / target.bf16_flops_per_clock / loops[loop].peak_share
    return CompiledCost(compiled.registers, compiled.shared_bytes, cycles, loops[loop].exp2_overlap)


def iteration_cycles(cycles: Cycles, alone: float, programs: int) -> float:
    """How long a turn takes an SM that has `programs` of them to share.

    Args:
        cycles: of one program's turn.
        alone: of a turn of a program that has the SM to itself. Other programs fill equal parts of what it leaves idle.
        programs: on the SM.

    Returns:
        Cycles for each turn of each program.
    """
    full = max(cycles.tensor, cycles.special, cycles.issue, cycles.shared)
    return full + max(0.0, alone - full) / programs


def _alone(loop: Loop, cycles: Cycles, target: Target, num_warps: int) -> float:
    """Cycles of a turn without other programs: by the issue model where products run beside other instructions of the same warps, else
    one after the other."""
    if any(instruction.family in sass.WIDE for instruction in loop.body):
        return turn_alone(loop, num_warps, target)
    return max(cycles.tensor, cycles.shared) + max(cycles.special, cycles.issue)


def _repeated(loop: Loop, work: Work, num_warps: int) -> float | None:
    shaped = all(instruction.shape for instruction in loop.body if instruction.family in sass.TENSOR_CORE)
    return loop.flops(num_warps) / work.flops if shaped and work.flops else None


def _cycles(loop: Loop, work: Work, target: Target, num_warps: int) -> Cycles:
    lanes = num_warps * target.warp_size
    special = sum(instruction.opcode.startswith("MUFU.") for instruction in loop.body)
    # What is spilled goes through the same memory.
    moved = sum(_shared_bytes(instruction, num_warps, target) for instruction in loop.body) + loop.spill_bytes() * lanes
    if any(instruction.family in _BULK for instruction in loop.body):
        # The size of a bulk copy stands in its descriptor.
        moved += work.fetched_bytes
    return Cycles(
        tensor=_tensor_cycles(loop, work, target, num_warps),
        special=special * lanes / target.exp2_per_clock,
        issue=len(loop.body) * num_warps / SCHEDULERS,
        shared=moved / SHARED_BYTES_PER_CLOCK,
    )


def _tensor_cycles(loop: Loop, work: Work, target: Target, num_warps: int) -> float:
    """Cycles for what is issued; for what has to be done where opcodes carry no shape."""
    total = 0.0
    for instruction in loop.body:
        if instruction.family not in sass.TENSOR_CORE:
            continue
        if instruction.shape is None:
            return work.flops / target.bf16_flops_per_clock
        rate = rate_of(instruction)
        rate *= _OLDER_RATE if target.matrix_unit in ("wgmma", "tcgen05") and instruction.family not in sass.WIDE else 1
        total += instruction.flops(num_warps) / (rate * target.bf16_flops_per_clock)
    return total


def _shared_bytes(instruction: Instruction, num_warps: int, target: Target) -> int:
    """Bytes of shared memory that all warps move by one instruction of the text."""
    if instruction.family in sass.WIDE:
        return operand_bytes(instruction) * instruction.issued(num_warps)
    if instruction.family not in _SHARED_ACCESS:
        return 0
    return _bytes_per_lane(instruction) * num_warps * target.warp_size


def _bytes_per_lane(instruction: Instruction) -> int:
    """Of a load, store or copy; matrices of 8 x 8 two-byte elements are 4 bytes a lane each."""
    parts = instruction.opcode.split(".")[1:]
    if instruction.family in ("LDSM", "STSM"):
        return 4 * (int(parts[-1]) if parts[-1].isdigit() else 1)
    widths = [int(part) // 8 for part in parts if part in ("32", "64", "128")]
    narrow = {"U8": 1, "S8": 1, "U16": 2, "S16": 2}
    return widths[0] if widths else next((narrow[part] for part in parts if part in narrow), 4)

"""The cost of a tile on a target: shared memory, registers, and the time of a whole kernel.

Three closed-form models: `shared_memory`, `register_estimate`, which only prunes, and `price`, which gives cycles and bytes of one
iteration and the time of a reference problem. It ranks candidates; the compiler decides among the leaders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from attngen.facts.work import Structure
from attngen.schedule.cost.atomics import atomic_cost, element_bytes
from attngen.schedule.cost.shared_memory import shared_bytes, streamed_elements, tile_columns, widest
from attngen.schedule.cost.warps import repeats
from attngen.schedule.space import WIDE_ROWS, LengthClass, uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

# Heads times batch, queries and keys of the reference problem of a length class. Fewer heads in decode are covered by split-KV.
REFERENCE = {"decode": (256, 16, 8192), "short": (64, 512, 512), "long": (64, 4096, 4096)}
REFERENCE_SPLITS = 64
# Shared memory that the driver reserves in every block.
_BLOCK_RESERVE_BYTES = 1024
_SHARED_BYTES_PER_CLOCK = 128
_L2_BYTES_PER_CLOCK = 24
_LANES_PER_CLOCK = 128
_SCALAR_FLOPS_PER_CLOCK = 256
# Barriers and latency of the first operand of a dot, once an iteration.
_ITERATION_CYCLES = 400
_LOAD_CYCLES = 800
# An exchange between warps through shared memory, barrier included, for each dot or sum in an iteration that needs one.
_EXCHANGE_CYCLES = 150
_PROGRAM_CYCLES = 3000
_ADDRESS_REGISTERS = 64
# The same with tensor descriptors, the middle of the observed range.
_DESCRIPTOR_REGISTERS = 32
# The share of the stalls between units that software pipelining hides.
_PREFETCH_OVERLAP = 0.8
# This many excess registers double the time.
_SPILL_REGISTERS = 64


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one tile.

    Cycles and bytes are for one iteration of one program; `iteration_cycles` accounts for overlap, and `total_us` is the time of the
    reference problem of the length class, in `waves` of programs.
    """

    shared_bytes: int
    registers: int
    programs_per_sm: int
    tensor_cycles: float
    sfu_cycles: float
    issue_cycles: float
    shared_cycles: float
    traffic_bytes: int
    iteration_cycles: float
    waves: float
    total_us: float

    def __str__(self) -> str:
        return (
            f"{self.total_us:.0f} us, {self.iteration_cycles:.0f} cycles an iteration (tensor {self.tensor_cycles:.0f}, "
            f"exp {self.sfu_cycles:.0f}, issue {self.issue_cycles:.0f}, shared {self.shared_cycles:.0f}), "
            f"{self.traffic_bytes} B an iteration, {self.programs_per_sm} a SM, {self.waves:.1f} waves, "
            f"{self.shared_bytes} B shared, about {self.registers} registers"
        )


@dataclass(frozen=True, slots=True)
class CompiledCost:
    """Facts of a compiled kernel: registers of a thread, bytes of shared memory, SM cycles of one iteration of the main loop without stalls
    (None if unknown), the share of its exponentials that overlap dots, and bytes that a thread spills and reloads in an iteration, unless
    the cycles include them."""

    registers: int
    shared_bytes: int
    iteration_cycles: float | None
    overlap: float
    spill_bytes: int = 0


# ---- registers

# Per thread: a base, then registers for each word of accumulators, of scores, and of further live score tiles, for each 16 bytes copied in
# an iteration, and for each word stored in one with address and mask. Fitted to compiled kernels; the error is 20 to 30 registers on NVIDIA
# targets, 60 on AMD.
_REGISTERS = {
    "wgmma": (25, 1.15, 1.05, 1.3, 12.0, 3.2),
    "tcgen05": (41, 0.6, 2.0, 0.0, 1.8, 3.2),
    "mma": (64, 1.2, 2.5, 0.0, 3.2, 7.0),
    "scalar": (45, 0.8, 5.5, 0.0, 3.7, 3.2),
    "mfma": (110, 1.7, 2.4, 3.9, 15.0, 3.2),
}

# The same for the combine kernel: a base, and for each word of its tiles, all of which are in flight.
_COMBINE_REGISTERS = (30, 2.55)


def register_estimate(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> int:
    """Estimated registers of a thread; spills grow with the excess over the limit."""
    threads = tile.num_warps * target.warp_size
    item = DTYPE_BYTES[dtype]
    if tile.streamed is None:
        return 40 + tile.resident * sum(tile_columns(structure.once, dims)) // threads
    words = max(item, 4) / 4
    if structure.combines_splits:
        held = tile.resident * tile.streamed * sum(tile_columns(structure.streamed_tiles, dims)) * words / threads
        return round(_COMBINE_REGISTERS[0] + _COMBINE_REGISTERS[1] * held)
    start, per_carried, per_score, per_further, per_copy, per_stored = _REGISTERS[_unit(tile, dtype, target)]
    repeated = repeats(structure, dims, dtype, tile, target)
    scores = repeated.scores * tile.resident * tile.streamed * words / threads
    carried = repeated.sums * tile.resident * sum(tile_columns(structure.carried, dims)) * words / threads + structure.summed_tiles * scores
    copied = sum(streamed_elements(structure, dims, tile)) * item / 16 / threads
    further = max(0, len(structure.dots) - 1)
    if _unit(tile, dtype, target) == "scalar":
        # Scalar dots hold a row of operands for every score.
        per_score *= max(1, max(tile_columns(structure.dots, dims), default=0) / 32)
    # Under register pressure the compiler recomputes addresses in every iteration.
    addresses = _DESCRIPTOR_REGISTERS if tile.tma else min(per_copy * copied, _ADDRESS_REGISTERS)
    addresses += per_stored * structure.stored_tiles * scores
    further += len(structure.prefetched) if tile.pipe else 0
    # The tile of the atomic adds is live after the scores are dead.
    added = per_carried * atomic_cost(structure, dims, dtype, tile, target).words * words / threads
    return round(start + per_carried * carried + max((per_score + per_further * further) * scores, added) + addresses)


def _unit(tile: TileSchedule, dtype: str, target: Target) -> str:
    """The unit that computes a kernel's dots."""
    if target.backend == "hip":
        return "mfma"
    if DTYPE_BYTES[dtype] > 2:
        return "scalar"
    return target.matrix_unit if uses_wide_units(tile, dtype, target) else "mma"


# ---- time


def price(
    structure: Structure,
    dims: Mapping[str, int],
    dtype: str,
    tile: TileSchedule,
    target: Target,
    length: LengthClass = "long",
    seen: CompiledCost | None = None,
) -> Cost:
    """All three models, with the time of the reference problem of a length class.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
        length: the length class.
        seen: facts of the compiled kernel, in place of the models.
    """
    shared = shared_bytes(structure, dims, dtype, tile, target) if seen is None else seen.shared_bytes
    registers = register_estimate(structure, dims, dtype, tile, target) if seen is None else seen.registers
    resident_programs = _programs_per_sm(shared, registers, tile, target)
    heads, q_len, kv_len = REFERENCE[length]
    rows, stream = (q_len, kv_len) if structure.queries_resident else (kv_len, q_len)
    programs = heads * ceil(rows / tile.resident)
    waves = programs / (target.sms * resident_programs)
    # The last wave is as long as a full one.
    rounds = ceil(waves) if waves > 0.5 else max(waves, 0.5)
    if tile.streamed is None:
        traffic = tile.resident * sum(tile_columns(structure.once, dims)) * element_bytes(structure, dtype)
        total = programs * traffic / target.hbm_gb_per_s / 1e3
        return Cost(shared, registers, resident_programs, 0, 0, 0, 0, traffic, 0, waves, total)
    if structure.combines_splits:
        return _combine_cost(structure, dims, tile, target, (shared, registers, resident_programs, waves))
    tensor, special, issue, moved, traffic = _iteration(structure, dims, dtype, tile, target)
    if seen is not None and seen.spill_bytes:
        spilled = seen.spill_bytes * tile.num_warps * target.warp_size
        issue, moved = issue + spilled / 4 / _LANES_PER_CLOCK, moved + spilled / _SHARED_BYTES_PER_CLOCK
    parts = (tensor, special + issue, moved, traffic / _L2_BYTES_PER_CLOCK)
    # Programs on one SM hide each other's stalls; a single program stalls on every unit in iteration.
    exposed = (tensor + special + issue - max(tensor, special + issue)) / resident_programs
    exposed *= 1 - _PREFETCH_OVERLAP if tile.pipe else 1
    busy = max(*parts) + exposed if seen is None or seen.iteration_cycles is None else max(seen.iteration_cycles, parts[-1])
    # A load has the iterations that its stages span to arrive; with a single stage, loads stall one after the other.
    copies = len(structure.streamed_tiles) + len(structure.reloaded_tiles) if tile.num_stages == 1 else 1
    stalls = max(0.0, copies * _LOAD_CYCLES - (tile.num_stages - 1) * busy)
    waiting = _ITERATION_CYCLES + _EXCHANGE_CYCLES * _exchanges(structure, dims, dtype, tile, target)
    # Exponentials that overlap dots fill half of the wait.
    waiting *= 1 - seen.overlap / 2 if seen is not None else 1
    iteration = busy + (waiting + stalls) / resident_programs
    iteration *= 1 + max(0, registers - target.registers_per_thread) / _SPILL_REGISTERS
    cycles = rounds * resident_programs * (ceil(stream / tile.streamed) * iteration) + rounds * _PROGRAM_CYCLES
    return Cost(shared, registers, resident_programs, tensor, special, issue, moved, traffic, iteration, waves, cycles / target.clock_mhz)


def _combine_cost(
    structure: Structure, dims: Mapping[str, int], tile: TileSchedule, target: Target, known: tuple[int, int, int, float]
) -> Cost:
    """A loop over `REFERENCE_SPLITS`, whose iterations are bound by load latency."""
    shared, registers, resident_programs, waves = known
    traffic = 4 * tile.resident * (tile.streamed or 1) * sum(tile_columns(structure.streamed_tiles, dims))
    iteration = (_LOAD_CYCLES + _ITERATION_CYCLES) * (1 + max(0, registers - target.registers_per_thread) / _SPILL_REGISTERS)
    cycles = _PROGRAM_CYCLES + ceil(REFERENCE_SPLITS / (tile.streamed or 1)) * iteration
    return Cost(shared, registers, resident_programs, 0, 0, 0, 0, traffic, iteration, waves, cycles / target.clock_mhz)


def _iteration(
    structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target
) -> tuple[float, float, float, float, int]:
    """Cycles of the tensor cores, the SFU, the issue slots and shared memory, and bytes loaded, in one iteration."""
    resident, streamed, item = tile.resident, tile.streamed or 0, DTYPE_BYTES[dtype]
    pairs = resident * streamed
    apart = tile.pipe and not tile.late
    columns = sum(tile_columns((*structure.dots, *structure.carried), dims)) + (0 if apart else structure.bias_columns)
    scalar = item > 2
    wide = uses_wide_units(tile, dtype, target)
    rate = _SCALAR_FLOPS_PER_CLOCK if scalar else target.bf16_flops_per_clock
    if target.matrix_unit in ("wgmma", "tcgen05") and not wide and not scalar:
        # mma runs at half of the rate or less.
        rate = rate / 2
    repeated, added = repeats(structure, dims, dtype, tile, target), atomic_cost(structure, dims, dtype, tile, target)
    tensor = 2 * pairs * (columns * repeated.products * (1 + (0.25 if wide and streamed < 64 else 0)) + added.columns) / rate
    special = structure.sfu_ops * pairs * repeated.scores / target.exp2_per_clock
    accumulators = repeated.sums * resident * sum(tile_columns(structure.carried, dims)) if structure.sums else 0
    fetched = sum(streamed_elements(structure, dims, tile))
    copies = 0 if tile.tma else fetched * item / 16
    moves = len(structure.prefetched) if tile.pipe else 0
    moves += bool(structure.bias_columns) if apart else 0
    issue = (structure.alu_ops + 3 + structure.sums + moves) * pairs * repeated.scores + accumulators + 4 * copies + added.instructions
    # Every 64 rows (or every warp) read the streamed tile once.
    readers = max(1, resident // WIDE_ROWS) if wide else min(tile.num_warps, max(1, resident // 16))
    products = len(structure.dots) + len(structure.carried)
    passing = fetched * item
    kept = resident * sum(tile_columns(structure.resident_tiles, dims)) * item if wide else 0
    moved = (
        passing * (1 + readers * products / max(len(structure.streamed_tiles) + len(structure.reloaded_tiles), 1))
        + kept
        + added.moved_bytes
    )
    traffic = passing + structure.vectors * streamed * 4 + structure.pairs * pairs * item + added.traffic_bytes
    return tensor, special, issue / _LANES_PER_CLOCK, moved / _SHARED_BYTES_PER_CLOCK, traffic


def _exchanges(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> int:
    """Exchanges of scores or row sums between warps in an iteration: where warps share rows, or hold accumulators in another layout."""
    shared_rows = tile.resident < 16 * tile.num_warps
    if uses_wide_units(tile, dtype, target):
        return structure.sums if shared_rows else 0
    moved = shared_rows or tile.resident < widest(structure.carried, dims)
    return (len(structure.carried) if moved else 0) + (structure.sums if shared_rows else 0)


def _programs_per_sm(shared: int, registers: int, tile: TileSchedule, target: Target) -> int:
    threads = tile.num_warps * target.warp_size
    by_shared = target.shared_bytes_per_sm // (shared + _BLOCK_RESERVE_BYTES)
    by_registers = target.registers_per_sm // (threads * min(max(registers, 32), target.registers_per_thread))
    return max(1, min(by_shared, by_registers, target.threads_per_sm // threads, 32))

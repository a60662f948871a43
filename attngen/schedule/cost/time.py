"""What a tile costs on a target: shared memory, registers, and the time of a whole kernel.

Three models, all closed formulas: shared memory (`memory`), `register_estimate`, which only prunes, and `price`, which gives cycles and
bytes for one streamed tile and the time of a reference problem; it orders candidates, and the compiler decides among the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from attngen.facts.work import Structure
from attngen.schedule.cost.atomics import atomic_cost, element_bytes
from attngen.schedule.cost.shared_memory import passing_elements, shared_bytes, tile_columns, widest
from attngen.schedule.cost.warps import repeats
from attngen.schedule.space import WIDE_ROWS, LengthClass, uses_wide_units
from attngen.schedule.tile_schedule import DTYPE_BYTES, TileSchedule
from attngen.targets.table import Target

# Heads times batch, queries, keys of the problem that stands for a length class. Few queries of fewer heads share their keys (`parts`).
REFERENCE = {"decode": (256, 16, 8192), "short": (64, 512, 512), "long": (64, 4096, 4096)}
REFERENCE_PARTS = 64
# What the driver keeps of every block of shared memory.
_BLOCK_RESERVE_BYTES = 1024
_SHARED_BYTES_PER_CLOCK = 128
_L2_BYTES_PER_CLOCK = 24
_LANES_PER_CLOCK = 128
_SCALAR_FLOPS_PER_CLOCK = 256
# Waiting for barriers and for the first operand of a product, once a streamed tile.
_ITERATION_CYCLES = 400
_LOAD_CYCLES = 800
# Handing values from warp to warp through shared memory, barrier included, for each product or sum that needs it in a turn.
_EXCHANGE_CYCLES = 150
_PROGRAM_CYCLES = 3000
_ADDRESS_REGISTERS = 64
# What fetching by descriptors takes instead, in the middle of what was seen.
_DESCRIPTOR_REGISTERS = 32
# The share of what one unit would wait for another that goes on beside it when products go ahead.
_AHEAD_SHARE = 0.8
# So many registers too many double the time.
_SPILL_REGISTERS = 64


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one tile.

    Cycles and bytes are for one program and one streamed tile; `iteration_cycles` is what it takes with what overlaps taken into account,
    and `total_us` the time of the reference problem of the length class, in `waves` of programs.
    """

    shared_bytes: int
    registers: int
    programs_per_sm: int
    tensor_cycles: float
    special_cycles: float
    issue_cycles: float
    shared_cycles: float
    traffic_bytes: int
    iteration_cycles: float
    waves: float
    total_us: float

    def __str__(self) -> str:
        return (
            f"{self.total_us:.0f} us, {self.iteration_cycles:.0f} cycles a turn (tensor {self.tensor_cycles:.0f}, "
            f"exp {self.special_cycles:.0f}, issue {self.issue_cycles:.0f}, shared {self.shared_cycles:.0f}), "
            f"{self.traffic_bytes} B a turn, {self.programs_per_sm} a SM, {self.waves:.1f} waves, "
            f"{self.shared_bytes} B shared, about {self.registers} registers"
        )


@dataclass(frozen=True, slots=True)
class CompiledCost:
    """What a compiler made of a kernel: registers of a thread, bytes of shared memory, the cycles of an SM that one turn of one program
    takes in its main loop, waiting left out (None: nobody looked), the share of its exponentials that run beside products, and what a
    thread spills and loads in a turn, if the cycles do not have it."""

    registers: int
    shared_bytes: int
    iteration_cycles: float | None
    overlap: float
    spill_bytes: int = 0


# ---- registers

# What a kernel starts with, then registers for each word of accumulators, of scores, of further score tiles alive at once, for each 16
# bytes copied per turn, and for each word written per turn with its address and mask, per thread. Fitted to compiled kernels; the error is
# 20 to 30 registers on NVIDIA's targets, 60 on AMD's.
_REGISTERS = {
    "wgmma": (25, 1.15, 1.05, 1.3, 12.0, 3.2),
    "tcgen05": (41, 0.6, 2.0, 0.0, 1.8, 3.2),
    "mma": (64, 1.2, 2.5, 0.0, 3.2, 7.0),
    "scalar": (45, 0.8, 5.5, 0.0, 3.7, 3.2),
    "mfma": (110, 1.7, 2.4, 3.9, 15.0, 3.2),
}

# The same for a kernel that merges: what it starts with, and for each word of its tiles, which are all on their way at once.
_MERGED_REGISTERS = (30, 2.55)


def register_estimate(structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target) -> int:
    """Registers a thread would like to have; beyond what it may have, it spills the more the further it is."""
    threads = tile.num_warps * target.warp_size
    item = DTYPE_BYTES[dtype]
    if tile.streamed is None:
        return 40 + tile.resident * sum(tile_columns(structure.once, dims)) // threads
    words = max(item, 4) / 4
    if structure.combines_splits:
        held = tile.resident * tile.streamed * sum(tile_columns(structure.streamed_tiles, dims)) * words / threads
        return round(_MERGED_REGISTERS[0] + _MERGED_REGISTERS[1] * held)
    start, per_carried, per_score, per_further, per_copy, per_stored = _REGISTERS[_unit(tile, dtype, target)]
    held = repeats(structure, dims, dtype, tile, target)
    scores = held.scores * tile.resident * tile.streamed * words / threads
    carried = held.sums * tile.resident * sum(tile_columns(structure.carried, dims)) * words / threads + structure.totals * scores
    copied = sum(passing_elements(structure, dims, tile)) * item / 16 / threads
    further = max(0, len(structure.dots) - 1)
    if _unit(tile, dtype, target) == "scalar":
        # Products of single numbers want a row of operands for every score.
        per_score *= max(1, max(tile_columns(structure.dots, dims), default=0) / 32)
    # Under pressure the compiler forms addresses anew in every turn.
    addresses = _DESCRIPTOR_REGISTERS if tile.tma else min(per_copy * copied, _ADDRESS_REGISTERS)
    addresses += per_stored * structure.stored * scores
    further += len(structure.prefetched) if tile.pipe else 0
    # What is added to memory is formed when the scores are gone.
    added = per_carried * atomic_cost(structure, dims, dtype, tile, target).words * words / threads
    return round(start + per_carried * carried + max((per_score + per_further * further) * scores, added) + addresses)


def _unit(tile: TileSchedule, dtype: str, target: Target) -> str:
    """Which arithmetic units form the products of a kernel."""
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
    """The models together, with the time of the reference problem of a length class.

    Args:
        structure: of the kernel.
        dims: extents of its feature axes.
        dtype: of its tensors.
        tile: the schedule.
        target: where it runs.
        length: class of the lengths.
        seen: of the compiled kernel, in place of what models say.
    """
    shared = shared_bytes(structure, dims, dtype, tile, target) if seen is None else seen.shared_bytes
    registers = register_estimate(structure, dims, dtype, tile, target) if seen is None else seen.registers
    resident_programs = _programs_per_sm(shared, registers, tile, target)
    heads, q_len, kv_len = REFERENCE[length]
    rows, stream = (q_len, kv_len) if structure.by_rows else (kv_len, q_len)
    programs = heads * ceil(rows / tile.resident)
    waves = programs / (target.sms * resident_programs)
    # The last wave is as long as a full one.
    rounds = ceil(waves) if waves > 0.5 else max(waves, 0.5)
    if tile.streamed is None:
        traffic = tile.resident * sum(tile_columns(structure.once, dims)) * element_bytes(structure, dtype)
        total = programs * traffic / target.hbm_gb_per_s / 1e3
        return Cost(shared, registers, resident_programs, 0, 0, 0, 0, traffic, 0, waves, total)
    if structure.combines_splits:
        return _merging(structure, dims, tile, target, (shared, registers, resident_programs, waves))
    tensor, special, issue, moved, traffic = _turn(structure, dims, dtype, tile, target)
    if seen is not None and seen.spill_bytes:
        spilled = seen.spill_bytes * tile.num_warps * target.warp_size
        issue, moved = issue + spilled / 4 / _LANES_PER_CLOCK, moved + spilled / _SHARED_BYTES_PER_CLOCK
    parts = (tensor, special + issue, moved, traffic / _L2_BYTES_PER_CLOCK)
    # Programs on one SM hide each other's waiting; a program alone waits for every unit in turn.
    exposed = (tensor + special + issue - max(tensor, special + issue)) / resident_programs
    exposed *= 1 - _AHEAD_SHARE if tile.pipe else 1
    busy = max(*parts) + exposed if seen is None or seen.iteration_cycles is None else max(seen.iteration_cycles, parts[-1])
    # A copy has the turns that its stages span to arrive; without any, one waits after the other.
    copies = len(structure.streamed_tiles) + len(structure.reloaded_tiles) if tile.num_stages == 1 else 1
    late = max(0.0, copies * _LOAD_CYCLES - (tile.num_stages - 1) * busy)
    waiting = _ITERATION_CYCLES + _EXCHANGE_CYCLES * _exchanges(structure, dims, dtype, tile, target)
    # What goes on meanwhile needs no waiting for.
    waiting *= 1 - seen.overlap / 2 if seen is not None else 1
    turn = busy + (waiting + late) / resident_programs
    turn *= 1 + max(0, registers - target.registers_per_thread) / _SPILL_REGISTERS
    cycles = rounds * resident_programs * (ceil(stream / tile.streamed) * turn) + rounds * _PROGRAM_CYCLES
    return Cost(shared, registers, resident_programs, tensor, special, issue, moved, traffic, turn, waves, cycles / target.clock_mhz)


def _merging(structure: Structure, dims: Mapping[str, int], tile: TileSchedule, target: Target, known: tuple[int, int, int, float]) -> Cost:
    """A pass over `REFERENCE_PARTS`, whose turns wait for what they load and for little else."""
    shared, registers, resident_programs, waves = known
    traffic = 4 * tile.resident * (tile.streamed or 1) * sum(tile_columns(structure.streamed_tiles, dims))
    turn = (_LOAD_CYCLES + _ITERATION_CYCLES) * (1 + max(0, registers - target.registers_per_thread) / _SPILL_REGISTERS)
    cycles = _PROGRAM_CYCLES + ceil(REFERENCE_PARTS / (tile.streamed or 1)) * turn
    return Cost(shared, registers, resident_programs, 0, 0, 0, 0, traffic, turn, waves, cycles / target.clock_mhz)


def _turn(
    structure: Structure, dims: Mapping[str, int], dtype: str, tile: TileSchedule, target: Target
) -> tuple[float, float, float, float, int]:
    """Cycles of the tensor cores, the special unit, the issue slots and shared memory, and bytes fetched, for one streamed tile."""
    resident, streamed, item = tile.resident, tile.streamed or 0, DTYPE_BYTES[dtype]
    pairs = resident * streamed
    apart = tile.pipe and not tile.late
    columns = sum(tile_columns((*structure.dots, *structure.carried), dims)) + (0 if apart else structure.folded)
    scalar = item > 2
    wide = uses_wide_units(tile, dtype, target)
    rate = _SCALAR_FLOPS_PER_CLOCK if scalar else target.bf16_flops_per_clock
    if target.matrix_unit in ("wgmma", "tcgen05") and not wide and not scalar:
        # The older instruction runs at half of the rate and less.
        rate = rate / 2
    held, added = repeats(structure, dims, dtype, tile, target), atomic_cost(structure, dims, dtype, tile, target)
    tensor = 2 * pairs * (columns * held.products * (1 + (0.25 if wide and streamed < 64 else 0)) + added.columns) / rate
    special = structure.special * pairs * held.scores / target.exp2_per_clock
    accumulators = held.sums * resident * sum(tile_columns(structure.carried, dims)) if structure.sums else 0
    fetched = sum(passing_elements(structure, dims, tile))
    copies = 0 if tile.tma else fetched * item / 16
    moves = len(structure.prefetched) if tile.pipe else 0
    moves += bool(structure.folded) if apart else 0
    issue = (structure.simple + 3 + structure.sums + moves) * pairs * held.scores + accumulators + 4 * copies + added.instructions
    # Every 64 rows (or every warp) read the streamed tile anew.
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
    """How often a turn hands scores or sums of rows from warp to warp: when warps share rows, or hold accumulators in another layout."""
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

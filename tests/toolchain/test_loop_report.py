from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.facts.work import Structure
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as target
from attngen.toolchain import loop_report as static
from attngen.toolchain import sass
from attngen.toolchain.compile import Compiled

PREFIX = "        /*0010*/                   "
SM90, SM80 = target.get("sm90"), target.get("sm80")
# 128 queries by 64 keys, head dims 128.
TILE = TileSchedule(128, 64, 8, 2)
LENGTHS = {"d": 128, "e": 128}

FORWARD = Structure(
    role="forward", resident_tiles=("d",), once=(), streamed_tiles=("d", "e"), reused_tiles=(), vectors=0, pairs=0, dots=("d",),
    carried=("e",), sums=2, sfu_ops=1, alu_ops=3, mask_ops=0,
)  # fmt: skip
WORK = static.work_of(FORWARD, LENGTHS, "bfloat16", TILE)


def listing(*lines: str) -> str:
    return "\n".join(line if line.endswith(":") else f"{PREFIX}{line} ;" for line in lines)


def turn(*inside: str) -> str:
    return listing(".L_x_0:", *inside, "@P0 BRA `(.L_x_0)", "EXIT")


def compiled(**changes: object) -> Compiled:
    fields = {
        "name": "forward_kernel", "arch": "sm90", "num_warps": 8, "num_stages": 2, "registers": 170, "spill_bytes": 0,
        "shared_bytes": 98 * 1024, "tensor_memory_columns": 0, "warnings": (), "binary": b"", "assembly": "",
    }  # fmt: skip
    return Compiled(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch):
    """Statics of a loop given as text."""

    def loops(text: str, where: target.Target = SM90, work: static.Work = WORK, **changes: object) -> tuple[static.Static, ...]:
        monkeypatch.setattr(sass, "disassemble", lambda _: text)
        return static.statics(compiled(**changes), work, where, 8)

    return loops


QK = "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0"
PV = "HGMMA.64x128x16.F32.BF16 R56, R152, gdesc[UR8].tnspB, R56, gsb0"


def test_work_is_exact():
    assert static.Work(2 * 128 * 64 * 256, 64 * 256 * 2) == WORK
    wider = replace(FORWARD, bias_columns=16, reloaded_tiles=("d",))
    assert static.work_of(wider, LENGTHS, "bfloat16", TILE) == static.Work(2 * 128 * 64 * 272, (64 * 256 + 128 * 128) * 2)


def test_one_turn(read):
    inside = [*[QK] * 8, "MUFU.EX2 R4, R5", "WARPGROUP.DEPBAR.LE gsb0, 0x0", "MUFU.EX2 R4, R5", "FADD R1, R2, R3", *[PV] * 4]
    (found,) = read(turn(*inside, "WARPGROUP.DEPBAR.LE gsb0, 0x0", "BAR.SYNC 0x0", "UTMALDG.2D [UR8], [UR4]", "LDG.E R1, [R2]"))
    assert found.tensor == (("HGMMA.64x64x16.F32.BF16", 8), ("HGMMA.64x128x16.F32.BF16", 4))
    assert found.repeated == 1
    assert (found.exp2, found.exp2_overlap, found.alu_overlap) == (2, 0.5, 0)
    assert (found.barriers, found.bulk_copies, found.async_copies, found.loads, found.spill_bytes) == (1, 1, 0, 1, 0)
    assert found.instructions == 8 + 4 + 2 + 2 + 5
    assert found.programs_per_sm == 1
    assert found.cycles.tensor == 128 * 64 * 256 * 2 / 4096
    assert found.cycles.special == 2 * 8 * 32 / 16
    assert found.cycles.issue == found.instructions * 8 / 4
    # Two groups of four warps read both operands of QK and one of PV, and the bulk copies write what passes.
    assert found.cycles.shared == (2 * (8 * (64 + 64) * 32 + 4 * 128 * 32) + WORK.fetched_bytes) / 128


def test_products_that_warps_repeat(read):
    (once,), (twice,) = read(turn(*[QK] * 8, *[PV] * 4)), read(turn(*[QK] * 16, *[PV] * 8))
    assert (once.repeated, twice.repeated) == (1, 2)
    assert twice.cycles.tensor == 2 * once.cycles.tensor
    assert twice.peak_share == pytest.approx(once.peak_share / 2, rel=0.01)
    (narrow,) = read(turn(*["HMMA.16816.F32.BF16 R4, R8, R12, R4"] * 128), SM80)
    assert narrow.repeated == 1
    assert narrow.cycles.tensor == WORK.flops / 2048


def test_what_is_serialised_overlaps_nothing(read):
    text = turn(QK, "MUFU.EX2 R4, R5", "WARPGROUP.DEPBAR.LE gsb0, 0x0")
    (found,) = read(text)
    assert (found.exp2_overlap, found.serialized, found.notes) == (1, False, ())
    warning = "ptxas info : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ..."
    (found,) = read(text, warnings=(warning,))
    assert (found.exp2_overlap, found.serialized, found.notes) == (0, True, ("C7511",))


def test_shared_memory_of_threads(read):
    (found,) = read(turn("HMMA.16816.F32.BF16 R4, R8, R12, R4", "LDSM.16.M88.4 R4, [R1]", "LDS.128 R4, [R1]", "STS.U16 [R1], R2"), SM80)
    assert found.cycles.shared == (16 + 16 + 2) * 8 * 32 / 128
    (spilling,) = read(turn("HMMA.16816.F32.BF16 R4, R8, R12, R4", "STL.64 [R1], R10", "LDL R12, [R1]"), SM80)
    assert (spilling.spill_bytes, spilling.cycles.shared) == (12, 12 * 8 * 32 / 128)


def test_a_row_for_people(read):
    warning = "ptxas info : (C7519) Potential Performance Loss: wgmma.mma_async ..."
    (found,) = read(turn(*[QK] * 8, "MUFU.EX2 R4, R5", *[PV] * 4, "LDG.E R1, [R2]"), warnings=(warning,))
    row = static.table_row(found)
    assert row["tensor"] == "8xHGMMA.64x64x16 4xHGMMA.64x128x16"
    assert (row["repeat"], row["exp2%"], row["copies"], row["wgmma"], row["spill_B"]) == ("1.00", 100, "1xLDG", "C7519", 0)
    assert row["cycles tensor/exp/issue/shared"] == "1024/16/30/768"


def test_programs_on_an_sm():
    assert static.programs_per_sm(compiled(num_warps=4, registers=128, shared_bytes=10_000), SM90) == 4
    # 170 registers are given out as 176, of which 65536 hold two programs of 128 threads, not three.
    assert static.programs_per_sm(compiled(num_warps=4, registers=170, shared_bytes=10_000), SM90) == 2
    assert static.programs_per_sm(compiled(num_warps=4, registers=128, shared_bytes=100_000), SM90) == 2
    assert static.programs_per_sm(compiled(registers=255, shared_bytes=227 * 1024), SM90) == 1


def test_turns_that_share_an_sm():
    cycles = static.Cycles(2000, 1000, 500, 800)
    assert static.iteration_cycles(cycles, 3000, 1) == 3000
    assert static.iteration_cycles(cycles, 3000, 2) == 2500
    assert static.iteration_cycles(cycles, 1500, 1) == 2000
    assert static.iteration_cycles(replace(cycles, special=2500), 2000, 1) == 2500


def test_amd_has_no_loops_to_read():
    assert static.statics(compiled(), WORK, target.get("gfx942"), 4) == ()

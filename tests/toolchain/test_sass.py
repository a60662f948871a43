from __future__ import annotations

import pytest

from attngen.errors import InternalError
from attngen.toolchain import sass

PREFIX = "        /*0010*/                   "


def listing(*lines: str) -> str:
    """SASS as nvdisasm prints it; lines that end in a colon are labels."""
    return "\n".join(line if line.endswith(":") else f"{PREFIX}{line} ;" for line in lines)


# One loop over tiles that waits for a barrier: the slow path sits behind EXIT, spins, and branches back into the middle.
PIPELINED = listing(
    "S2R R0, SR_TID.X",
    ".L_x_0:",
    "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2",
    "@!P0 BRA `(.L_x_2)",
    ".L_x_1:",
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], !UPT",
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0",
    "MUFU.EX2 R4, R5",
    "FFMA R6, R6, R7, R8",
    "WARPGROUP.DEPBAR.LE gsb0, 0x0",
    "MUFU.EX2 R9, R9",
    "STL.64 [R1+0x8], R10",
    "@P1 LDL R12, [R1]",
    "@P2 BRA `(.L_x_0)",
    "EXIT",
    ".L_x_2:",
    "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2",
    "@!P0 BRA `(.L_x_2)",
    "BRA `(.L_x_1)",
    ".L_x_3:",
    "BRA `(.L_x_3)",
)


def test_slow_paths_belong_to_their_loop():
    found = sass.loops(PIPELINED)
    assert [loop.header for loop in found] == [1, 13]
    (main,) = sass.main_loops(PIPELINED)
    assert main.header == 1
    assert main.counts()["SYNCS"] == 2
    assert main.counts()["FFMA"] == 1


def test_what_a_loop_issues():
    (main,) = sass.main_loops(PIPELINED)
    counts = main.counts()
    assert (counts["HGMMA"], counts["MUFU.EX2"], counts["WARPGROUP.DEPBAR"]) == (2, 2, 1)
    assert {item.opcode for item in main.body if item.family in sass.TENSOR_CORE} == {"HGMMA.64x128x16.F32.BF16"}
    assert main.spill_bytes() == 8 + 4


def test_work_of_matrix_products():
    (wide,) = sass.main_loops(PIPELINED)
    assert wide.flops(num_warps=8) == 2 * (2 * 64 * 128 * 16) * 2, "two instructions of each group of four warps"
    narrow = sass.Loop(0, frozenset(), (sass.Instruction("HMMA.16816.F32.BF16", ""), sass.Instruction("HMMA.1688.F32", "")))
    assert narrow.flops(num_warps=4) == 2 * 16 * 8 * (16 + 8) * 4


@pytest.mark.parametrize(
    ("opcode", "shape"),
    [
        ("HGMMA.64x128x16.F32.BF16", (64, 128, 16)),
        ("HMMA.16816.F32.BF16", (16, 8, 16)),
        ("HMMA.1684.F32.TF32", (16, 8, 4)),
        ("DMMA.884", (8, 8, 4)),
        ("UTCHMMA", None),
        ("LDSM.16.M88.4", None),
    ],
)
def test_shapes_of_opcodes(opcode, shape):
    assert sass.Instruction(opcode, "").shape == shape


def test_overlap_counts_what_runs_before_the_wait():
    (main,) = sass.main_loops(PIPELINED)
    assert main.exp2_overlap() == 0.5
    assert main.alu_overlap() == 1.0


@pytest.mark.parametrize(("left", "share"), [(0, 0.0), (1, 1.0)])
def test_a_wait_that_leaves_a_group_keeps_the_tensor_cores_busy(left, share):
    text = listing(
        ".L_x_0:",
        "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0",
        "HGMMA.64x64x16.F32.BF16 R56, gdesc[UR8], R56, gsb0",
        f"WARPGROUP.DEPBAR.LE gsb0, {left:#x}",
        "MUFU.EX2 R4, R5",
        "@P0 BRA `(.L_x_0)",
        "EXIT",
    )
    assert sass.main_loops(text)[0].exp2_overlap() == share


def test_only_the_innermost_tensor_loops_count():
    text = listing(
        ".L_x_0:",
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",
        ".L_x_1:",
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",
        "BRA.U UP0, `(.L_x_1)",
        ".L_x_2:",
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",
        "@!P0 BRA `(.L_x_2)",
        "@P1 BRA `(.L_x_0)",
        "EXIT",
    )
    assert [loop.header for loop in sass.loops(text)] == [0, 1, 4]
    assert [loop.header for loop in sass.main_loops(text)] == [1]


def test_text_without_loops():
    assert sass.loops("") == ()
    assert sass.main_loops(listing("EXIT")) == ()


def test_what_is_no_cubin_is_an_error():
    with pytest.raises(InternalError):
        sass.disassemble(b"not a cubin")

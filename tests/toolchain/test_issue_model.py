"""Turns walked in the order of their instructions."""

from __future__ import annotations

import pytest

from attngen.targets import table as target
from attngen.toolchain.issue_model import operand_bytes, turn_alone
from attngen.toolchain.sass import Instruction, Loop

SM90 = target.get("sm90")
# 64 x 128 x 16 of each of two groups: 128 cycles. From registers it reads half of what it reads from shared memory.
PRODUCT = Instruction("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR8], R24")
LAST = Instruction("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR8], R24, gsb0")
WAIT = Instruction("WARPGROUP.DEPBAR.LE", "gsb0, 0x0")
WAIT_FOR_THE_FIRST = Instruction("WARPGROUP.DEPBAR.LE", "gsb0, 0x1")
# 16 cycles of the special function unit for 8 warps, 2 of which each scheduler has.
EXP = Instruction("MUFU.EX2", "R4, R5")
ADD, MAXIMUM = Instruction("FADD", "R1, R2, R3"), Instruction("FMNMX", "R1, R2, R3, !PT")


@pytest.mark.parametrize(
    ("body", "cycles"),
    [
        ([ADD] * 10, 20),
        ([MAXIMUM] * 10, 40),
        ([EXP] * 10, 160),
        ([EXP, *[ADD] * 7] * 10, 160),
        ([PRODUCT, LAST, WAIT], 2 + 2 * 128 + 2),
        ([*[EXP] * 10, PRODUCT, LAST, WAIT], 9 * 16 + 2 + 2 + 2 * 128 + 2),
        ([PRODUCT, LAST, *[EXP] * 10, WAIT], 2 + 2 * 128 + 2),
        ([PRODUCT, LAST, *[EXP] * 20, WAIT], 20 * 16),
        ([WAIT, *[EXP] * 10, LAST, LAST], 2 + 9 * 16 + 2 + 2 + 2 * 128 - 2),
    ],
    ids=["slots", "half of the lanes", "special", "between them", "products", "before", "beside", "longer", "over the edge of turns"],
)
def test_a_turn(body: list[Instruction], cycles: float) -> None:
    assert turn_alone(Loop(0, frozenset(), tuple(body)), 8, SM90) == pytest.approx(cycles, abs=2)


def test_a_wait_that_leaves_a_group() -> None:
    both = turn_alone(Loop(0, frozenset(), (LAST, LAST, WAIT, *[ADD] * 60)), 8, SM90)
    first = turn_alone(Loop(0, frozenset(), (LAST, LAST, WAIT_FOR_THE_FIRST, *[ADD] * 60, WAIT)), 8, SM90)
    assert both - first == pytest.approx(60 * 2, abs=2)


def test_products_that_shared_memory_feeds_too_slowly() -> None:
    narrow = Instruction("HGMMA.64x32x16.F32.BF16", "R24, gdesc[UR8], R24, gsb0")
    assert operand_bytes(narrow) == (64 + 32) * 16 * 2
    assert turn_alone(Loop(0, frozenset(), (narrow, WAIT)), 4, SM90) == pytest.approx((64 + 32) * 32 / 128 + 2, abs=1)

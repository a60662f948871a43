"""Full tiles cost what they cost without a mask: in the machine code, too, nothing is compared or selected element by element there."""

from __future__ import annotations

import pytest

import attngen
from attngen import variants
from attngen.toolchain import sass

WARPS = 4
TILES = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": WARPS, "num_stages": 2}
ELEMENTS = 64 * 64 // (32 * WARPS)
SELECTING = ("FSEL", "SEL", "ISETP", "PLOP3")
# Of a loop as a whole: its own end, buffers of the pipeline, predicates of a vector of rows.
OTHER = ELEMENTS // 2


def loops(spec: attngen.Spec, role: str) -> tuple[sass.Loop, ...]:
    attend = attngen.compile(spec, arch="sm90", schedule=TILES)
    handle = next(handle for handle in attend.kernels if handle.role == role)
    return sass.main_loops(sass.disassemble(handle.resources("bfloat16", 64).binary))


def selections(loop: sass.Loop) -> int:
    found = loop.counts()
    return sum(found[family] for family in SELECTING)


@pytest.mark.parametrize("role", ["forward", "backward_rows", "backward_columns"])
def test_only_the_loop_over_masked_tiles_selects(role: str) -> None:
    full, masked = loops(variants.sliding_window(), role)
    plain = loops(variants.full(), role)[0]
    assert full.counts()["MUFU.EX2"] >= ELEMENTS
    assert full.counts()["FSEL"] == plain.counts()["FSEL"]
    assert abs(selections(full) - selections(plain)) < OTHER
    assert selections(masked) >= selections(full) + ELEMENTS

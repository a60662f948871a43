"""What warps compute more than once: the model against the instructions of compiled kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from attngen import catalog
from attngen.cache.load import load_module
from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import columns, cuts
from attngen.pipeline import analyse, build
from attngen.schedule.choose import Request
from attngen.schedule.cost.time import price
from attngen.schedule.cost.warps import ONCE, repeats
from attngen.schedule.tile_schedule import parse_tile
from attngen.targets import table as target
from attngen.toolchain import sass
from attngen.toolchain.compile import compile_kernel
from attngen.toolchain.settle import Emitted, Task, compile_job

# Head dims, kernel, tile, and how often its multiply-adds were carried out, counted in the instructions of the compiled loop.
COUNTED = [
    ("sm80", 64, 128, "forward", "64x32,w8,s2", 4 / 3),
    ("sm80", 96, 64, "backward_rows", "32x16,w4,s2", 2.0),
    ("sm90", 64, 128, "forward", "64x32,w8,s2", 4 / 3),
    ("sm90", 32, 32, "forward", "32x64,w4,s2", 2.0),
    ("sm80", 128, 128, "forward", "64x64,w4,s2", 1.0),
    ("sm80", 64, 64, "forward", "64x32,w8,s2", 2.0),
    ("sm80", 192, 128, "forward", "64x16,w8,s1", 2.8),
    ("sm80", 192, 128, "backward_rows", "64x64,w8,s1", 2.0),
    ("sm80", 192, 128, "backward_columns", "64x64,w8,s1", 1.0),
    ("sm80", 576, 512, "forward", "64x16,w8,s1", 2.588),
    ("sm80", 576, 512, "backward_rows", "32x32,w8,s1", 1.654),
    ("sm80", 576, 512, "backward_rows", "64x32,w8,s1", 2.0),
    ("sm90", 192, 128, "backward_rows", "64x64,w8,s1", 1.625),
    ("sm90", 192, 128, "backward_columns", "64x16,w8,s1", 1.5),
    ("sm90", 576, 512, "forward", "64x16,w8,s1", 1.529),
    ("sm90", 576, 512, "forward", "32x64,w8,s2", 1.0),
    ("sm90", 576, 512, "forward", "64x64,w8,s1,tma", 1.529),
    ("sm90", 576, 512, "forward", "64x64,w8,s1,pipe,tma", 1.0),
]
COMPILED = COUNTED[:4]
PROGRAM = analyse(catalog.load("full").cascade)


def held(role: str) -> Structure:
    return PROGRAM.facts_of(role).work


@pytest.mark.parametrize(("arch", "d", "e", "role", "tile", "counted"), COUNTED)
def test_the_model_is_what_was_counted(arch: str, d: int, e: int, role: str, tile: str, counted: float) -> None:
    found = repeats(held(role), {"d": d, "e": e}, "bfloat16", parse_tile(tile), target.get(arch))
    assert found.products == pytest.approx(counted, abs=1e-3)


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.parametrize(("arch", "d", "e", "role", "tile", "counted"), COMPILED)
def test_compiled_loops_issue_what_was_counted(arch: str, d: int, e: int, role: str, tile: str, counted: float, tmp_path: Path) -> None:
    request = Request((("d", d), ("e", e)), "bfloat16", target.get(arch))
    path, source = tmp_path / "kernels.py", build(PROGRAM, "full", cuts(request.extents))
    path.write_text(source.text, encoding="utf-8")
    task = Task(Emitted(source, load_module(path, f"warps_{arch}_{d}_{e}")), role, request, parse_tile(tile))
    loops = sass.main_loops(sass.disassemble(compile_kernel(compile_job(task)).binary))
    exact = (
        2
        * task.tile.resident
        * (task.tile.streamed or 0)
        * sum(columns(request.extents[a]) for a in (*held(role).dots, *held(role).carried))
    )
    assert [loop.flops(task.tile.num_warps) / exact for loop in loops] == [pytest.approx(counted)] * len(loops) != []


def test_repeated_work_takes_its_time() -> None:
    dims, tiles = {"d": 128, "e": 128}, [parse_tile(f"64x32,w{warps},s2") for warps in (4, 8)]
    exact, twice = (price(held("forward"), dims, "bfloat16", tile, target.get("sm80")) for tile in tiles)
    assert twice.tensor_cycles == 1.5 * exact.tensor_cycles
    assert twice.sfu_cycles == 2 * exact.sfu_cycles


@pytest.mark.parametrize(
    ("arch", "dtype", "tile"),
    [("sm80", "float32", "16x16,w8,s2"), ("gfx942", "bfloat16", "16x16,w8,s2"), ("sm100", "bfloat16", "64x32,w8,s2")],
)
def test_units_that_are_not_modelled_count_as_exact(arch: str, dtype: str, tile: str) -> None:
    assert repeats(held("forward"), {"d": 64, "e": 64}, dtype, parse_tile(tile), target.get(arch)) == ONCE

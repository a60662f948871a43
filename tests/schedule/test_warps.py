"""What warps compute more than once: the model against the instructions of compiled kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from attngen import catalog, target
from attngen.cache.load import load_module
from attngen.ir.pieces import columns, cuts
from attngen.pipeline import analyse, build
from attngen.runtime import sass
from attngen.runtime.inspect import Compiled, compile_many
from attngen.runtime.measure import Emitted, Task, compile_job
from attngen.schedule.choose import Request
from attngen.schedule.cost import price
from attngen.schedule.plan import parse_tile
from attngen.schedule.structure import structure
from attngen.schedule.warps import ONCE, repeats

# Head dims, kernel, tile, and how often its multiply-adds are carried out.
COMPILED = {
    "sm80": [
        (64, 128, "forward", "64x32,w8,s2", 4 / 3),
        (96, 64, "backward_rows", "32x16,w4,s2", 2.0),
        (48, 64, "forward", "32x32,w4,s2", 1.0),
    ],
    "sm90": [(64, 128, "forward", "64x32,w8,s2", 4 / 3), (32, 32, "forward", "32x64,w4,s2", 2.0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", COMPILED)
def test_the_model_is_what_compiled_loops_issue(arch: str, tmp_path: Path) -> None:
    program, emitted, tasks = analyse(catalog.load("full").cascade), dict[object, Emitted](), list[Task]()
    for d, e, role, tile, _ in COMPILED[arch]:
        request = Request((("d", d), ("e", e)), "bfloat16", target.get(arch))
        key = cuts(request.extents)
        if key not in emitted:
            path = tmp_path / f"kernels_{len(emitted)}.py"
            source = build(program, "full", key)
            path.write_text(source.text, encoding="utf-8")
            emitted[key] = Emitted(source, load_module(path, f"warps_{arch}_{len(emitted)}"))
        tasks.append(Task(emitted[key], role, request, parse_tile(tile)))
    for task, (*_, expected), compiled in zip(tasks, COMPILED[arch], compile_many([compile_job(task) for task in tasks], 2), strict=True):
        assert isinstance(compiled, Compiled), compiled
        held = structure(next(kernel for kernel in program.kernels if kernel.role == task.role))
        wide = sum(columns(task.request.extents[axis]) for axis in (*held.dots, *held.carried))
        exact = 2 * task.tile.resident * (task.tile.streamed or 0) * wide
        issued = [loop.flops(task.tile.num_warps) / exact for loop in sass.main_loops(sass.disassemble(compiled.binary))]
        model = repeats(held, task.request.extents, "bfloat16", task.tile, task.request.target).products
        assert issued == [pytest.approx(expected)] * len(issued) != [], task.tile
        assert model == pytest.approx(expected), task.tile


def forward():
    return structure(next(kernel for kernel in analyse(catalog.load("full").cascade).kernels if kernel.role == "forward"))


def test_repeated_work_takes_its_time() -> None:
    dims, tiles = {"d": 128, "e": 128}, [parse_tile(f"64x32,w{warps},s2") for warps in (4, 8)]
    exact, twice = (price(forward(), dims, "bfloat16", tile, target.get("sm80")) for tile in tiles)
    assert twice.tensor_cycles == 1.5 * exact.tensor_cycles
    assert twice.special_cycles == 2 * exact.special_cycles


@pytest.mark.parametrize(
    ("arch", "dtype", "tile"),
    [("sm80", "float32", "16x16,w8,s2"), ("gfx942", "bfloat16", "16x16,w8,s2"), ("sm100", "bfloat16", "64x32,w8,s2")],
)
def test_units_that_are_not_modelled_count_as_exact(arch: str, dtype: str, tile: str) -> None:
    assert repeats(forward(), {"d": 64, "e": 64}, dtype, parse_tile(tile), target.get(arch)) == ONCE

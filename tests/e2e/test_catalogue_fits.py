"""The whole catalogue through the real compiler, for every target."""

from __future__ import annotations

import pytest

from attngen.cache.load import load_module
from attngen.pipeline import analyse, build
from attngen.schedule.choose import Request, choose
from attngen.schedule.tables import Measured, table
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as target
from attngen.toolchain.settle import Emitted, Task, measure

catalog = pytest.importorskip("attngen.catalog")
DIMS = (("d", 64), ("e", 64))
# Targets whose kernels take the same memory for the same tile: compiled for the first of them that has it.
FAMILIES = (("sm80",), ("sm86", "sm89"), ("sm90",), ("sm100",), ("sm120",), ("gfx942",), ("gfx950",))


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    modules = {}
    for name in catalog.names():
        source = build(analyse(catalog.load(name).cascade), name)
        path = folder / f"{name}.py"
        path.write_text(source.text, encoding="utf-8")
        modules[name] = Emitted(source, load_module(path, f"catalogue_{name}"))
    return modules


@pytest.mark.slow
@pytest.mark.parametrize("archs", FAMILIES, ids="-".join)
def test_every_kernel_of_the_catalogue_fits(emitted, archs):
    tasks: dict[tuple[str, TileSchedule], Task] = {}
    for arch in archs:
        request = Request(DIMS, "bfloat16", target.get(arch))
        mine: dict[str, tuple[TileSchedule, Task]] = {}
        for module in emitted.values():
            facts = module.source.program.facts
            schedule = choose(facts, request, table()).schedule
            for kernel in facts:
                # Kernels of one key keep and stream the same tiles: one of them tells whether they fit.
                tile = schedule[kernel.role]
                mine.setdefault(kernel.work.key(request.extents), (tile, Task(module, kernel.role, request, tile)))
        assert len(mine) >= 12
        for key, (tile, task) in mine.items():
            tasks.setdefault((key, tile), task)
    for task, row in zip(tasks.values(), measure(list(tasks.values())), strict=True):
        assert isinstance(row, Measured), row
        assert row.shared_bytes <= row.shared_bytes_predicted <= task.request.target.shared_bytes, (task.role, row)
        assert row.tensor_memory_columns <= 512, (task.role, row)


def test_families_are_alike():
    """They have the same units and limits, so that a tile that fits the first fits all."""
    assert sorted(arch for archs in FAMILIES for arch in archs) == sorted(item.name for item in target.TARGETS)
    for archs in FAMILIES:
        assert len({(item.backend, item.matrix_unit, item.shared_bytes, item.registers_per_thread) for item in map(target.get, archs)}) == 1

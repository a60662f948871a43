"""The whole catalogue through the real compiler, for every target."""

from __future__ import annotations

import pytest

from attngen import target
from attngen.cache.load import load_module
from attngen.pipeline import analyse, build
from attngen.runtime.measure import Emitted, Task, measure
from attngen.schedule.choose import Request, choose
from attngen.schedule.measured import Measured, table
from attngen.schedule.structure import structure

catalog = pytest.importorskip("attngen.catalog")
DIMS = (("d", 64), ("e", 64))


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
@pytest.mark.parametrize("arch", [t.name for t in target.TARGETS])
def test_every_kernel_of_the_catalogue_fits(emitted, arch):
    request = Request(DIMS, "bfloat16", target.get(arch))
    tasks: dict[str, Task] = {}
    for module in emitted.values():
        kernels = module.source.program.kernels
        schedule = choose(kernels, request, table()).schedule
        for kernel in kernels:
            # Kernels of one key keep and stream the same tiles: one of them tells whether they fit.
            tasks.setdefault(structure(kernel).key(request.extents), Task(module, kernel.role, request, schedule[kernel.role]))
    assert len(tasks) >= 12
    for task, row in zip(tasks.values(), measure(list(tasks.values())), strict=True):
        assert isinstance(row, Measured), row
        assert row.shared_bytes <= row.shared_bytes_predicted <= request.target.shared_bytes, (task.role, row)
        assert row.tensor_memory_columns <= 512, (task.role, row)

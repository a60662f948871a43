"""When a backward is fused, and that a split one is the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import attngen
from attngen import catalog
from attngen.errors import ScheduleError
from attngen.knobs import Knobs
from attngen.plan.options import Options, freeze
from attngen.plan.programs import ProgramKey
from attngen.plan.tiled_programs import BackwardForm
from attngen.runtime.kernel_table import KernelTable
from attngen.schedule.backward_choice import MARGIN, SPILLED_BYTES, compare, form_of
from attngen.schedule.choose import Choice, Reason, Request
from attngen.schedule.tables import Measured, table
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule
from attngen.targets import table as target

SM90 = target.get("sm90")
REQUEST = Request((("d", 64), ("e", 64)), "bfloat16", SM90)
ONE = {"backward_fused": {"BLOCK_M": 16, "BLOCK_N": 16}}


@pytest.fixture
def strictly_deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def programs(options: Options | None = None, name: str = "causal") -> KernelTable:
    return KernelTable(catalog.load(name).cascade, name, options or Options("sm90"), Knobs.from_env())


def form(mine: KernelTable, wanted: set[str] | None = None, request: Request = REQUEST) -> BackwardForm:
    """As for a call, which says what PyTorch says."""
    key = ProgramKey(request.dtype, None if wanted is None else mine.gradients(frozenset(wanted)))
    return mine.backward_form(key, request, repeatable=torch.are_deterministic_algorithms_enabled())


def test_the_cheaper_form_runs() -> None:
    found = form(programs())
    assert found.fused
    assert "us predicted fused" in found.why


@pytest.mark.usefixtures("strictly_deterministic")
def test_pytorch_asks_for_equal_results() -> None:
    mine = programs()
    assert not form(mine).fused
    torch.use_deterministic_algorithms(False)
    assert form(mine).fused, "it counts what PyTorch says at the call"


def test_the_user_asks_for_equal_results() -> None:
    found = form(programs(Options("sm90", deterministic=True)))
    assert not found.fused
    assert found.why == "deterministic results are asked for"


@pytest.mark.parametrize(
    ("dtype", "wanted", "why"),
    [
        ("float32", None, "backward_fused has not been compiled"),
        ("bfloat16", {"q"}, "backward_rows: no kernel loops over the same tiles along the other axis"),
        ("bfloat16", {"k", "v"}, "there is nothing to join"),
    ],
)
def test_the_split_backward_stays(dtype: str, wanted: set[str] | None, why: str) -> None:
    assert form(programs(), wanted, replace(REQUEST, dtype=dtype)) == BackwardForm(False, why)


def test_gradients_of_captured_tensors_are_not_added_up_in_any_order() -> None:
    mine = programs(name="alibi_causal")
    found = form(mine)
    assert not found.fused
    assert found.why.startswith("dslopes")
    assert "dslopes" not in form(mine, {"q", "k", "v"}).why


@pytest.mark.parametrize(("schedule", "fused"), [(ONE, True), ({"backward_rows": {"num_warps": 4}}, False), ({"num_warps": 4}, True)])
def test_a_schedule_names_the_form(schedule: dict[str, object], fused: bool) -> None:
    mine = programs(Options("sm90", freeze(schedule)))
    assert form(mine).fused == fused
    assert mine.choice(ProgramKey("bfloat16", fused=fused), REQUEST).schedule


def test_a_form_is_named_without_tiles() -> None:
    """Its tiles are those of the choice, and are settled as such."""
    mine = programs(Options("sm90", freeze({"backward_fused": {}})))
    assert form(mine).fused
    assert [mine.kernels(ProgramKey("bfloat16", fused=fused)).override for fused in (False, True)] == [None, None]


def test_a_schedule_that_no_form_has() -> None:
    with pytest.raises(ScheduleError, match="no kernel called 'backward_fused_2'"):
        programs(Options("sm90", freeze({"backward_fused_2": {"num_warps": 4}}))).check_schedule()


def _choice(roles: dict[str, float], row: Measured | None = None) -> Choice:
    tile = TileSchedule(64, None, 4, 1)
    reasons = tuple(Reason(role, tile, "measured", row, None, None, (), predicted_us=us) for role, us in roles.items())
    return Choice(ModuleSchedule(tuple((role, tile) for role in roles)), reasons)


def test_one_walk_has_to_save_a_tenth() -> None:
    two = _choice({"forward": 500.0, "backward_rows": 40.0, "backward_columns": 60.0})
    limit = 100.0 * (1 - MARGIN)
    assert compare(two, _choice({"forward": 0.0, "backward_fused": limit})).fused
    assert not compare(two, _choice({"forward": 0.0, "backward_fused": limit + 1})).fused
    row = next(row for row in table().rows if row.structure.startswith("backward_fused"))
    for spilled, one in ((SPILLED_BYTES, True), (SPILLED_BYTES + 4, False)):
        choice = _choice({"forward": 0.0, "backward_fused": limit}, replace(row, loop_spill_bytes=spilled))
        assert compare(two, choice).fused == one


def test_what_is_added_has_rows_enough() -> None:
    """Tiles of 128 x 32 form dq with the older instruction, tiles of 128 x 64 do not; other targets have no other."""
    row = next(row for row in table().rows if row.structure.startswith("backward_fused") and row.arch == "sm90")
    two = _choice({"forward": 500.0, "backward_rows": 40.0, "backward_columns": 60.0})
    for arch, tile, one in (("sm90", "128x64,w8,s2", True), ("sm90", "128x32,w8,s2", False), ("sm80", "128x32,w8,s2", True)):
        choice = _choice({"forward": 0.0, "backward_fused": 50.0}, replace(row, arch=arch, tile=tile, loop_spill_bytes=0))
        assert compare(two, choice).fused == one


def test_kernels_of_both_forms_name_none() -> None:
    assert form_of({"backward_fused", "forward"}) == "fused"
    assert form_of({"backward_rows_2"}) == "split"
    assert form_of({"backward_rows", "backward_finish"}) == form_of({"forward"}) == ""


@pytest.mark.kernels
def test_calls() -> None:
    """Gradients of either form, of both in turn, and to the bit the same in two walks."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape, dtype=torch.float64) for shape in ((1, 2, 20, 16), (1, 1, 40, 16), (1, 1, 40, 16)))
    tensors = [tensor.requires_grad_() for tensor in (q, k, v)]
    spec = attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx + 20 >= kv_idx)
    apart, together = attngen.compile(spec, deterministic=True, schedule=ONE), attngen.compile(spec, schedule=ONE)
    golden = torch.autograd.grad(apart.reference(*tensors).square().sum(), tensors)
    found = [torch.autograd.grad(attend(*tensors).square().sum(), tensors) for attend in (apart, together, apart)]
    for gradients in found:
        for mine, right in zip(gradients, golden, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))
    only = torch.autograd.grad(together(q, k.detach(), v.detach()).square().sum(), q)[0]
    torch.testing.assert_close(only, golden[0], rtol=1e-10, atol=1e-10)

"""When a backward runs in one walk, and that two walks are the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import attngen
from attngen import catalog
from attngen.errors import ScheduleError
from attngen.knobs import Knobs
from attngen.pipeline import analyse
from attngen.runtime.forms import form
from attngen.runtime.kernels import Kernels
from attngen.runtime.options import Options, freeze
from attngen.schedule.backward_choice import MARGIN, SPILLED_BYTES, compare, form_of
from attngen.schedule.choose import Choice, Reason
from attngen.schedule.tables import Measured, table
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule
from attngen.targets import table as target

SM90 = target.get("sm90")
DIMS = {"d": 64, "e": 64}
ONE = {"backward_fused": {"BLOCK_M": 16, "BLOCK_N": 16}}


@pytest.fixture
def strictly_deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def kernels(options: Options | None = None) -> Kernels:
    return Kernels(analyse(catalog.load("causal").cascade), "causal", options or Options("sm90"), Knobs.from_env()).at("bfloat16")


def is_one_walk(found: Kernels) -> bool:
    return any(kernel.atomic_adds for kernel in found.program.kernels)


def test_the_cheaper_form_runs() -> None:
    found = form(kernels(), DIMS, "bfloat16", SM90, (4096, 4096))
    assert is_one_walk(found.kernels)
    assert "in one walk" in found.why


@pytest.mark.usefixtures("strictly_deterministic")
def test_pytorch_asks_for_equal_results() -> None:
    mine = kernels()
    assert not is_one_walk(form(mine, DIMS, "bfloat16", SM90).kernels)
    torch.use_deterministic_algorithms(False)
    assert is_one_walk(form(mine, DIMS, "bfloat16", SM90).kernels), "it counts what PyTorch says at the call"


def test_the_user_asks_for_equal_results() -> None:
    found = form(kernels(Options("sm90", deterministic=True)), DIMS, "bfloat16", SM90)
    assert not is_one_walk(found.kernels)
    assert found.why == "results are to be the same in every run"


@pytest.mark.parametrize(
    ("dtype", "wanted", "why"),
    [
        ("float32", None, "no compile has shown what backward_fused takes"),
        ("bfloat16", {"q"}, "backward_rows: no kernel loops over the same tiles along the other axis"),
        ("bfloat16", {"k", "v"}, "there is nothing to join"),
    ],
)
def test_two_walks_stay(dtype: str, wanted: set[str] | None, why: str) -> None:
    found = kernels().at(dtype) if wanted is None else kernels().wanting(frozenset(wanted))
    chosen = form(found, DIMS, dtype, SM90)
    assert chosen.kernels is found
    assert chosen.why == why


def test_gradients_of_captured_tensors_are_not_added_up_in_any_order() -> None:
    mine = Kernels(analyse(catalog.load("alibi_causal").cascade), "alibi", Options("sm90"), Knobs.from_env()).at("bfloat16")
    found = form(mine, DIMS, "bfloat16", SM90)
    assert not is_one_walk(found.kernels)
    assert found.why.startswith("dslopes")
    assert "dslopes" not in form(mine.wanting(frozenset({"q", "k", "v"})), DIMS, "bfloat16", SM90).why


@pytest.mark.parametrize(("schedule", "one"), [(ONE, True), ({"backward_rows": {"num_warps": 4}}, False), ({"num_warps": 4}, True)])
def test_a_schedule_names_the_form(schedule: dict[str, object], one: bool) -> None:
    found = form(kernels(Options("sm90", freeze(schedule))), DIMS, "bfloat16", SM90)
    assert is_one_walk(found.kernels) == one
    assert found.kernels.choice(DIMS, "bfloat16", SM90).schedule


def test_a_form_is_named_without_tiles() -> None:
    """Its tiles are those of the choice, and are settled as such."""
    mine = kernels(Options("sm90", freeze({"backward_fused": {}})))
    found = form(mine, DIMS, "bfloat16", SM90).kernels
    assert is_one_walk(found)
    assert (mine.override, found.override) == (None, None)


def test_a_schedule_that_no_form_has() -> None:
    found = kernels(Options("sm90", freeze({"backward_fused_2": {"num_warps": 4}})))
    with pytest.raises(ScheduleError, match="no kernel called 'backward_fused_2'"):
        found.choice(DIMS, "bfloat16", SM90)


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
    assert form_of({"backward_fused", "forward"}) == "one walk"
    assert form_of({"backward_rows_2"}) == "two walks"
    assert form_of({"backward_rows", "backward_finish"}) == form_of({"forward"}) == ""


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

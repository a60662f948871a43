"""Tuning with a clock of our own, and once through Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attngen
from attngen.cache.store import CacheWarning
from attngen.cache.user_table import own_path, record, tuned_tiles
from attngen.errors import CacheError, CompileFailed, DeviceLost, NoDevice
from attngen.knobs import Knobs
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import parse_tile
from attngen.schedule.tuned import Tuned, read, shipped, table_of
from attngen.targets import table as target
from attngen.tuning import timing
from attngen.tuning.search import LENGTHS, WAVES, Attempt, Setting, check_values, filled, tune_kernels, winner

SETTING = Setting(target.get("sm90"), torch.device("cpu"), "a clock of ours", "3.6", leaders=3)
DIMS = {"d": 64, "e": 64}
REQUEST = Request(tuple(DIMS.items()), "bfloat16", SETTING.target)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def kernels_of(spec: attngen.Spec, **options) -> tuple[KernelTable, dict[str, object]]:
    kernels = KernelTable(spec.cascade, spec.name, Options("sm90", **options), Knobs.from_env())
    return kernels, {item.name: item.value for item in spec.captures}


def area(attempt: Attempt) -> float:
    """A clock to which small tiles are fast."""
    return 1.0 + attempt.tile.resident * (attempt.tile.streamed or 1) / 1e4


def test_the_fastest_tile_of_each_kernel_is_kept():
    seen: list[Attempt] = []

    def clock(attempt: Attempt) -> float:
        seen.append(attempt)
        return area(attempt)

    kernels, captures = kernels_of(attngen.attention(mask_mod=causal))
    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=clock)
    roles = [*(kernel.role for kernel in kernels.program(ProgramKey("bfloat16")).kernels), "backward_fused", "backward_finish"]
    assert [row.structure.partition(":")[0] for row in found.rows] == roles
    for row in found.rows:
        mine = [attempt.tile for attempt in seen if attempt.role == row.structure.partition(":")[0]]
        assert row.tried == len(mine) == len(set(mine)) >= 3
        assert str(mine[0]) == row.usual
        assert row.call_us <= (row.usual_us or 0)
        assert row.schedule == winner({tile: area(Attempt("", tile, dict, dict)) for tile in mine}, mine[0])
    assert (found.lost, found.notes) == ((), ())


def test_what_does_not_run_is_reported_and_the_rest_goes_on():
    def clock(attempt: Attempt) -> float:
        if attempt.tile.num_warps == 8:
            raise RuntimeError("PassManager::run failed\nand more")
        return area(attempt)

    kernels, captures = kernels_of(attngen.attention())
    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=clock)
    assert all(row.schedule.num_warps == 4 for row in found.rows)
    assert {item.why for item in found.lost} == {"RuntimeError: PassManager::run failed"}
    usual = [row for row in found.rows if ",w8" in row.usual]
    assert usual
    assert all(row.usual_us is None for row in usual)


def test_a_kernel_of_which_nothing_runs_is_an_error():
    def clock(attempt: Attempt) -> float:
        raise RuntimeError("no")

    kernels, captures = kernels_of(attngen.attention())
    with pytest.raises(CompileFailed, match="forward"):
        tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=clock)


def test_what_may_hang_comes_after_all_else_is_kept():
    done: list[str] = []

    def clock(attempt: Attempt) -> float:
        done.append("specialised" if attempt.tile.alternate else "timed")
        return 0.5 if attempt.tile.alternate else 1.0

    kernels, captures = kernels_of(attngen.attention())
    kept: list[Tuned] = []

    def keep(row: Tuned) -> None:
        kept.append(row)
        done.append(f"{row.length} {row.structure.partition(':')[0]}")

    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long", "short"), clock=clock, keep=keep)
    first = done.index("specialised")
    before = [item for item in done[:first] if item != "timed"]
    assert before == [f"{row.length} {row.structure.partition(':')[0]}" for row in found.rows]
    assert done[first:] == ["specialised", "specialised", "long forward"]
    assert found.rows == (kept[-1], *kept[1:-1])
    assert kept[-1].tried == kept[0].tried + 2


@pytest.mark.parametrize("where", ["backward_rows", "specialised"])
def test_a_lost_device_ends_it_and_what_was_found_stays(where, tmp_path: Path, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr("attngen.tuning.search.answers", lambda device: asked.append(True) or lost[0] is None)
    lost: list[str | None] = [None]

    def clock(attempt: Attempt) -> float:
        assert lost[0] is None, "nothing runs on a device that does not answer"
        if attempt.tile.num_warps == 8 and attempt.role == "forward" and not attempt.tile.alternate:
            raise RuntimeError("only this tile")
        if attempt.role == where or attempt.tile.alternate:
            lost[0] = str(attempt.tile)
            raise RuntimeError("an illegal memory access was encountered")
        return area(attempt)

    def keep(row: Tuned) -> None:
        record(table_of([row]), tmp_path / "tuned.json")

    kernels, captures = kernels_of(attngen.attention())
    with pytest.raises(DeviceLost, match="illegal memory access") as caught:
        tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=clock, keep=keep)
    assert str(lost[0]) in str(caught.value)
    assert caught.value.remedy
    assert len(asked) > 1
    roles = {row.structure.partition(":")[0] for row in read((tmp_path / "tuned.json").read_text()).rows}
    every = {*(kernel.role for kernel in kernels.program(ProgramKey("bfloat16")).kernels), "backward_fused", "backward_finish"}
    assert roles == ({"forward", "backward_prepare"} if where == "backward_rows" else every)


def test_each_winner_is_written_as_soon_as_it_is_known(tmp_path: Path, monkeypatch):
    kernels, captures = kernels_of(attngen.attention())
    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=area)

    def broken(*_, keep, **__):
        keep(found.rows[0])
        raise RuntimeError("the process ends here")

    monkeypatch.setattr("attngen.tuning.tune.need_device", lambda what: None)
    monkeypatch.setattr("attngen.tuning.tune.tune_kernels", broken)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: SETTING.name)
    monkeypatch.setattr(KernelTable, "target", lambda self, device: SETTING.target)
    with pytest.raises(RuntimeError, match="ends here"):
        attngen.tune(attngen.attention(), head_dim=64, out=tmp_path / "tuned.json")
    assert read((tmp_path / "tuned.json").read_text()).rows == table_of(found.rows[:1]).rows


def test_noise_does_not_replace_the_usual_tile():
    usual, other = parse_tile("128x64,w8,s2"), parse_tile("64x64,w4,s2")
    assert winner({usual: 1.0, other: 0.985}, usual) == usual
    assert winner({usual: 1.0, other: 0.97}, usual) == other
    assert winner({other: 2.0}, usual) == other


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_fill_several_waves(length):
    slopes, prefix = torch.ones(4), torch.zeros(1, dtype=torch.int32)
    spec = attngen.attention(
        score_mod=lambda s, b, h, q, k: s + slopes[h] * (k - q), mask_mod=lambda b, h, q, k: (q >= k) | (k < prefix[b])
    )
    for variant in (attngen.attention(), spec):
        kernels, captures = kernels_of(variant)
        found = filled(kernels.kernels(ProgramKey()), captures, DIMS, length, SETTING.target)
        assert found is not None
        q_len, kv_len = LENGTHS[length]
        assert (found["m"], found["n"]) == (q_len, kv_len)
        programs = found["b"] * found["g"] * found["r"] * -(-q_len // 128)
        if variant is spec:
            assert found["b"] == 1
            assert found["g"] * found["r"] <= 4
        else:
            assert WAVES * SETTING.target.sms <= programs < 3 * WAVES * SETTING.target.sms


def test_captured_tensors_that_are_too_short_leave_a_class_out():
    bias = torch.zeros(300, 300)
    kernels, captures = kernels_of(attngen.attention(score_mod=lambda s, b, h, q, k: s + bias[q, k]))
    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long", "short"), clock=area)
    assert {row.length for row in found.rows} == {"short"}
    assert found.notes[0].startswith("long: omitted")


def test_calls_run_and_agree_in_the_interpreter(monkeypatch):
    monkeypatch.setattr("attngen.tuning.search.LENGTHS", {"short": (33, 33)})
    monkeypatch.setattr("attngen.tuning.search.WAVES", 0)
    kernels, captures = kernels_of(attngen.attention(mask_mod=causal))
    differences: list[float] = []

    def clock(attempt: Attempt) -> float:
        found, right = attempt.run(), attempt.right()
        assert set(found) == ({"o", "lse"} if attempt.role == "forward" else {"q", "k", "v"})
        differences.extend(float((found[name] - right[name]).abs().max()) for name in found)
        return 1.0

    setting = Setting(SETTING.target, SETTING.device, "", "", leaders=1)
    found = tune_kernels(kernels, captures, {"d": 16, "e": 16}, "float32", setting, classes=("short",), clock=clock)
    assert all(row.tile == row.usual for row in found.rows)
    assert max(differences) < 1e-5


def test_the_users_table_reaches_the_schedule_and_no_product(tmp_path: Path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    before, captures = kernels_of(attngen.attention(mask_mod=causal))
    found = tune_kernels(before, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=area)
    path = own_path(tmp_path)
    assert path == tmp_path / "tuned.json"
    record(table_of(found.rows), path)
    record(table_of(found.rows[:1]), path)
    assert read(path.read_text()).rows == table_of(found.rows).rows
    wanted = {row.structure.partition(":")[0]: row.tile for row in found.rows}
    after, product = kernels_of(attngen.attention(mask_mod=causal))[0], kernels_of(attngen.attention(mask_mod=causal), local=False)[0]
    mine, other = after.forms("bfloat16")
    schedule, shipped_tiles = mine.settled(REQUEST), product.kernels(ProgramKey("bfloat16"))
    both = (*schedule.tiles, *other.settled(REQUEST).tiles)
    assert {role: str(tile) for role, tile in both} == wanted
    why = after.backward_form(ProgramKey("bfloat16"), REQUEST, repeatable=False).why
    assert "us a call fused" in why, "GPU timings decide between the forms"
    assert shipped_tiles.settled(REQUEST) != schedule
    assert {reason.evidence for reason in shipped_tiles.choice(REQUEST).reasons} == {"measured"}
    # What runs has these tiles, so that Triton builds and finds kernels by them.
    loaded = mine.get(REQUEST, torch.device("cpu"))
    assert loaded.tiles["forward"]["BLOCK_M"] == schedule["forward"].resident


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"name": "app", "version": "2.1"}', '{"version": 1, "columns": [], "rows": 3}', "notes of mine"]
)
def test_a_file_that_is_no_table_is_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(CacheError, match="not a table of tuned schedules"):
        record(table_of([]), path)
    assert path.read_text() == text


def test_divided_warps_are_timed_and_run_where_they_won_on_this_machine(tmp_path: Path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    kernels, captures = kernels_of(attngen.attention(mask_mod=causal))
    clock = lambda attempt: 0.5 if attempt.tile.alternate else 1.0  # noqa: E731
    found = tune_kernels(kernels, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=clock)
    assert [row.schedule.alternate for row in found.rows] == ["specialised", *("" for _ in found.rows[1:])]
    record(table_of(found.rows), own_path(tmp_path))
    mine, product = (kernels_of(attngen.attention(mask_mod=causal), local=local)[0] for local in (True, False))
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    strict = kernels_of(attngen.attention(mask_mod=causal))[0]
    chosen = [one.choice(ProgramKey("bfloat16"), REQUEST).schedule["forward"].alternate for one in (mine, product, strict)]
    assert chosen == ["specialised", "", ""], "what is stored or made for others has no divided warps that nobody asked for"
    loaded = mine.kernels(ProgramKey("bfloat16")).loaded_for(REQUEST, "interpreted")
    assert hasattr(loaded.module, "forward_specialised_kernel")
    q, k, v = torch.randn(3, 1, 1, 1, 40, 64, dtype=torch.bfloat16).unbind()
    out = loaded.module.forward(q, k[:, :, 0], v[:, :, 0], loaded.tiles)[0]
    wanted = torch.nn.functional.scaled_dot_product_attention(*(x.float() for x in (q, k, v)), is_causal=True)
    torch.testing.assert_close(out.float(), wanted, atol=2e-2, rtol=2e-2)


def test_a_schedule_that_a_compile_settled_is_stored_for_the_tuned_tiles_it_stands_beside(tmp_path: Path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    keys: list[str] = []

    def settle(kernels, key, choice, request):
        keys.append(key)
        return choice.schedule

    monkeypatch.setattr(Kernels, "_settle", settle)
    spec = attngen.attention(score_mod=lambda s, b, h, q, k: torch.erf(torch.erf(s)))
    before, captures = kernels_of(spec)
    assert before.choice(ProgramKey("bfloat16"), REQUEST).unsettled
    before.kernels(ProgramKey("bfloat16")).settled(REQUEST)
    found = tune_kernels(before, captures, DIMS, "bfloat16", SETTING, classes=("long",), clock=area)
    record(table_of([replace(found.rows[0], tile="16x16,w4,s1")]), own_path(tmp_path))
    kernels_of(spec)[0].kernels(ProgramKey("bfloat16")).settled(REQUEST)
    assert len(set(keys)) == 2


def test_a_tile_that_computes_something_else_is_refused():
    right = {"o": torch.randn(50, 8), "lse": torch.full((50,), float("-inf"))}
    rounded, wrong = {**right, "o": right["o"] * 1.001}, {**right, "o": right["o"].clone()}
    wrong["o"][3] = float("nan")
    tile = parse_tile("64x64,w4,s2")
    check_values(Attempt("forward", tile, lambda: rounded, lambda: right))
    for found in (wrong, {**right, "o": right["o"] * 1.1}, {**right, "lse": torch.zeros(50)}):
        with pytest.raises(CompileFailed, match="64x64,w4,s2"):
            check_values(Attempt("forward", tile, lambda found=found: found, lambda: right))


def test_a_damaged_table_counts_as_empty_and_is_said(tmp_path: Path):
    tmp_path.chmod(0o700)
    (tmp_path / "tuned.json").write_text("{")
    with pytest.warns(CacheWarning, match="counts as empty"):
        assert tuned_tiles(Knobs(cache_dir=tmp_path), True) == shipped()
    assert tuned_tiles(Knobs(cache_dir=tmp_path), False) is shipped()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_with_a_remedy(tmp_path: Path):
    for action in (lambda: timing.gpu_milliseconds(lambda: None), lambda: attngen.tune(attngen.attention(), out=tmp_path / "t.json")):
        with pytest.raises(NoDevice) as caught:
            action()
        assert caught.value.remedy
    assert not (tmp_path / "t.json").exists()

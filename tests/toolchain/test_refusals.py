"""Compilers that fail on a tile: another takes its place, the failure is remembered with its reason, and where all fail it is said so."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attngen
from attngen.calls import launcher
from attngen.errors import CompileFailed
from attngen.frontend.spec import Spec
from attngen.interpreter.triton_api import knobs, triton
from attngen.knobs import Knobs
from attngen.pipeline import analyse
from attngen.plan.options import Options, freeze
from attngen.plan.programs import ProgramKey
from attngen.report.resources import compile_settled, inspect_kernels
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request, choose
from attngen.schedule.tables import Table, table
from attngen.schedule.tile_schedule import TileSchedule, parse_tile
from attngen.schedule.tuned import TunedTable
from attngen.targets import table as targets
from attngen.toolchain import compile as inspect
from attngen.toolchain import settle as measure
from attngen.toolchain.compile import CompileJob
from attngen.toolchain.refusals import Refusals, failed_launch, said

DIMS = {"d": 64, "e": 64}
SM90 = targets.get("sm90")
REQUEST = Request(tuple(DIMS.items()), "bfloat16", SM90)
Fails = Callable[[CompileJob], bool]


def unseen() -> Spec:
    """A variant whose arithmetic no table has."""
    return attngen.attention(score_mod=lambda s, b, h, q, k: s + torch.erf(torch.erf(s)))


def programs(spec: Spec, *, local: bool = True, deterministic: bool = False, **schedule: object) -> KernelTable:
    options = Options("sm90", freeze(schedule) if schedule else None, local=local, deterministic=deterministic)
    return KernelTable(spec.cascade, "tried", options, Knobs.from_env())


def kernels(spec: Spec, *, local: bool = True, **schedule: object) -> Kernels:
    return programs(spec, local=local, **schedule).kernels(ProgramKey("bfloat16"))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Fails], list[CompileJob]]:
    """A compiler that fails on some jobs, in a cache of its own; gives the list of what it was asked for."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))

    def install(fails: Fails) -> list[CompileJob]:
        asked: list[CompileJob] = []

        def compile_many(jobs: list[CompileJob], workers: int) -> tuple[object, ...]:
            asked.extend(jobs)
            return tuple(CompileFailed("ptxas died of signal 11") if fails(job) else compiled(job) for job in jobs)

        monkeypatch.setattr("attngen.toolchain.settle.compile_many", compile_many)
        monkeypatch.setattr("attngen.report.resources.compile_many", compile_many)
        return asked

    return install


def compiled(job: CompileJob) -> inspect.Compiled:
    figures = {"registers": 100, "spill_bytes": 0, "shared_bytes": 1000, "tensor_memory_columns": 0}
    return inspect.Compiled(
        name="k", arch="sm90", num_warps=job.num_warps, num_stages=job.num_stages, warnings=(), binary=b"", assembly="", **figures
    )


def tma(job: CompileJob) -> bool:
    return bool(job.constexprs.get("TMA"))


def role(job: CompileJob) -> str:
    return str(job.fn.__name__).removesuffix("_kernel")


# ---- choices


def test_a_refused_tile_is_passed_over_and_shown_with_the_reason() -> None:
    program = analyse(unseen().cascade)
    usual = choose(program.facts, REQUEST, Table(()))
    first = usual.schedule["forward"]
    choice = choose(program.facts, REQUEST, Table(()), None, lambda role, tile: "it died" * (role == "forward" and tile == first))
    assert choice.schedule["forward"] != first
    assert choice.schedule.replace({"forward": first}) == usual.schedule, "other kernels keep theirs"
    assert any(f"{first}: does not compile: it died" in line for line in choice.lines())
    assert choice.reasons[0].fallback != first


def test_a_form_that_fails_on_two_shapes_is_left() -> None:
    program = analyse(unseen().cascade)
    tried: list[TileSchedule] = []

    def refused(role: str, tile: TileSchedule) -> str:
        if role != "backward_rows" or not tile.tma:
            return ""
        tried.append(tile)
        return "it died"

    assert not choose(program.facts, REQUEST, Table(()), None, refused).schedule["backward_rows"].tma
    assert len(dict.fromkeys(tried[:2])) == 2, "two shapes were tried first"


def test_what_was_measured_is_passed_over_too() -> None:
    program = analyse(attngen.attention().cascade)
    usual = choose(program.facts, REQUEST, table())
    reason = next(reason for reason in usual.reasons if reason.role == "forward")
    assert reason.evidence == "measured"
    choice = choose(program.facts, REQUEST, table(), TunedTable(), lambda role, tile: "no" * (tile == reason.tile and role == "forward"))
    after = next(reason for reason in choice.reasons if reason.role == "forward")
    assert after.tile != reason.tile and after.evidence == "model" and "forward" in choice.unsettled


def test_where_all_fail_it_is_said() -> None:
    program = analyse(attngen.attention().cascade)
    with pytest.raises(CompileFailed, match=r"no tile of forward compiles for sm90; of 6 tried, .* does not compile: it died") as caught:
        choose(program.facts, REQUEST, table(), None, lambda role, tile: "it died")
    assert caught.value.remedy


def test_a_refused_fallback_is_not_offered_again() -> None:
    program = analyse(unseen().cascade)
    before = next(reason for reason in choose(program.facts, REQUEST, table()).reasons if reason.fallback is not None)
    refused = (before.role, before.fallback)
    after = choose(program.facts, REQUEST, table(), None, lambda role, tile: "it died" if (role, tile) == refused else "")
    found = next(reason for reason in after.reasons if reason.role == before.role)
    assert found.tile == before.tile
    assert found.fallback != before.fallback


# ---- builds


@pytest.mark.parametrize("local", [True, False])
def test_settling_goes_on_with_other_tiles(compiler: Callable[[Fails], list[CompileJob]], local: bool) -> None:
    asked = compiler(tma)
    mine = kernels(unseen(), local=local)
    assert any(tile.tma for _, tile in mine.choice(REQUEST).schedule.tiles)
    settled = mine.settled(REQUEST)
    assert not any(tile.tma for _, tile in settled.tiles)
    assert len(asked) < 20
    text = "\n".join(mine.choice(REQUEST).lines())
    assert "does not compile: ptxas died of signal 11" in text
    if local:
        again = compiler(lambda job: True)
        assert kernels(unseen()).settled(REQUEST) == settled, "the next process knows"
        assert not again


def test_a_tile_that_only_fails_later_is_replaced(compiler: Callable[[Fails], list[CompileJob]]) -> None:
    """Measured tiles are compiled when they are looked at or launched, not before."""
    compiler(lambda job: role(job) == "forward" and job.constexprs["BLOCK_N"] == wide)
    table = programs(attngen.attention())
    mine = table.kernels(ProgramKey("bfloat16"))
    wide = mine.settled(REQUEST)["forward"].streamed
    (found,) = inspect_kernels(table, DIMS, "bfloat16", SM90, ("forward",))
    assert found.task.tile.streamed != wide
    assert mine.settled(REQUEST)["forward"] == found.task.tile


def test_a_fallback_that_fails_later_is_replaced_as_well(compiler: Callable[[Fails], list[CompileJob]]) -> None:
    compiler(tma)
    mine = kernels(unseen())
    before = mine.settled(REQUEST)
    mine.refuse(REQUEST, [("forward", before["forward"], "out of memory")])
    after = mine.settled(REQUEST)
    assert after["forward"] != before["forward"]


def test_a_build_of_which_nothing_compiles_is_refused(compiler: Callable[[Fails], list[CompileJob]]) -> None:
    asked = compiler(lambda job: role(job) == "backward_rows")
    with pytest.raises(CompileFailed, match="no tile of backward_rows compiles for sm90") as caught:
        kernels(unseen()).settled(REQUEST)
    assert caught.value.remedy
    assert len([job for job in asked if role(job) == "backward_rows"]) <= 12


@pytest.mark.parametrize("failing", ["backward_columns", "backward_fused"])
def test_a_form_that_does_not_compile_gives_way_to_the_other(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(Refusals, "why", lambda self, request, role, tile: "it died" * (role == failing))
    mine = programs(attngen.attention(name="forms"))
    mine.settle(REQUEST, repeatable=False)
    found = mine.backward_form(ProgramKey("bfloat16"), REQUEST, repeatable=False)
    assert found.fused == (failing == "backward_columns")
    assert f"no tile of {failing} compiles" in found.why
    steady = programs(attngen.attention(name="forms"), deterministic=True)
    if failing == "backward_columns":
        with pytest.raises(CompileFailed, match="backward_columns"):
            steady.settle(REQUEST, repeatable=False)


def test_a_tile_that_a_user_asked_for_has_no_other_in_its_place(compiler: Callable[[Fails], list[CompileJob]]) -> None:
    compiler(lambda job: role(job) == "forward")
    mine = kernels(unseen(), forward={"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "PIPE": False, "TMA": False})
    with pytest.raises(CompileFailed, match="which schedule= asks for: ptxas died of signal 11") as caught:
        compile_settled(mine, REQUEST, ["forward"])
    assert caught.value.remedy


# ---- real compilers


def assembler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have Triton call a script in place of ptxas."""
    path = folder / "ptxas"
    path.write_text(f"#!/bin/sh\ncase $1 in --version) exec {knobs.nvidia.ptxas.path} --version;; esac\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(path))


@pytest.mark.parametrize(
    "script, words",
    [
        ("kill -SEGV $$", "error code -11"),
        ("kill -KILL $$", "error code -9"),
        ("echo 'ptxas fatal : Ptx assembly aborted due to errors' >&2; exit 255", "aborted"),
    ],
    ids=["crash", "killed", "refusal"],
)
def test_what_an_assembler_does_is_a_failure_of_the_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    mine = kernels(attngen.attention())
    emitted = measure.Emitted(mine.source(DIMS), mine.module(mine.source(DIMS), "compiled", SM90, DIMS, "bfloat16"))
    assembler(tmp_path, monkeypatch, script)
    (row,) = measure.measure([measure.Task(emitted, "backward_prepare", REQUEST, parse_tile("64,w4,s1"))])
    assert isinstance(row, CompileFailed) and words in row.rule and "Repro" not in row.rule
    assert measure.fault(row, REQUEST) == "does not compile"


@pytest.mark.parametrize("error", [RuntimeError("PassManager::run failed"), MemoryError(), AssertionError("")])
def test_any_exception_of_triton_is_a_failure_of_the_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    mine = kernels(attngen.attention())
    emitted = measure.Emitted(mine.source(DIMS), mine.module(mine.source(DIMS), "compiled", SM90, DIMS, "bfloat16"))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(triton, "compile", fail)
    (row,) = measure.measure([measure.Task(emitted, "backward_prepare", REQUEST, parse_tile("64,w4,s1"))])
    assert isinstance(row, CompileFailed) and row.__cause__ is error and said(error) in row.rule


# ---- launches


def test_a_launch_that_ends_in_the_compiler_names_its_kernel() -> None:
    """As frames stand when Triton compiles at the first launch."""
    namespace: dict[str, object] = {}
    exec(compile("def compile():\n    raise RuntimeError('ptxas died')", f"site{os.sep}triton/compiler/compiler.py", "exec"), namespace)

    class Function:
        __name__ = "backward_rows_kernel"

    def launch(kernel: object, run: Callable[[], None]) -> None:
        run()

    def error_of(run: Callable[[], None]) -> Exception:
        with pytest.raises(Exception) as caught:
            run()
        return caught.value

    def elsewhere() -> None:
        raise RuntimeError("an illegal memory access")

    compiling: Callable[[], None] = namespace["compile"]  # type: ignore[assignment]
    assert failed_launch(error_of(lambda: launch(Function(), compiling))) == ("backward_rows_kernel", "ptxas died")
    assert failed_launch(error_of(lambda: launch(Function(), elsewhere))) is None
    assert failed_launch(error_of(compiling)) is None


def test_a_call_whose_launch_fails_goes_on_with_another_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    q = torch.randn(1, 1, 20, 16)
    attend = attngen.compile(attngen.attention(name="relaunched"))
    right = attend(q, q, q)
    tiles: list[str] = []

    def fails_once(error: Exception) -> tuple[str, str] | None:
        return ("forward_kernel", "ptxas died") if str(error) == "once" else None

    load = launcher.Launcher._loaded

    def spoiled(self: launcher.Launcher, kind: launcher.Kind) -> object:
        found, loaded = load(self, kind)
        tiles.append(str(loaded.tiles["forward"]))
        return found, loaded if len(tiles) > 1 else replace(loaded, module=Broken())  # type: ignore[arg-type]

    class Broken:
        def forward(self, *_: object) -> None:
            raise RuntimeError("once")

    monkeypatch.setattr(launcher, "failed_launch", fails_once)
    monkeypatch.setattr(launcher.Launcher, "_loaded", spoiled)
    attend = attngen.compile(attngen.attention(name="relaunched"))
    torch.testing.assert_close(attend(q, q, q), right)
    assert len(tiles) == 2 and tiles[0] != tiles[1]

"""The table of programs: each is analysed when it is looked up, and once."""

from __future__ import annotations

import pytest

import attngen
from attngen import catalog
from attngen.errors import ScheduleError, UnsupportedError
from attngen.knobs import Knobs
from attngen.plan import programs
from attngen.plan.options import Options, freeze
from attngen.plan.programs import FORWARD_ONLY, ProgramKey, Programs


def table(name: str = "alibi_causal", options: Options | None = None) -> Programs:
    return Programs(catalog.load(name).cascade, options or Options("sm90"), Knobs())


def roles(mine: Programs, key: ProgramKey) -> list[str]:
    return [kernel.role for kernel in mine.program(key).kernels]


def test_kernels_by_key() -> None:
    mine = table()
    assert roles(mine, ProgramKey()) == ["forward", "backward_prepare", "backward_rows", "backward_columns"]
    assert roles(mine, ProgramKey(fused=True)) == ["forward", "backward_prepare", "backward_fused", "backward_finish"]
    assert roles(mine, ProgramKey(gradients=FORWARD_ONLY)) == ["forward"]
    assert roles(mine, ProgramKey(gradients=FORWARD_ONLY, split=True)) == ["forward_parts", "forward_merge"]
    assert roles(mine, ProgramKey(gradients=frozenset({"v"}))) == ["forward", "backward_columns"]
    assert mine.find(ProgramKey(gradients=frozenset({"q"}), fused=True)) is None
    with pytest.raises(KeyError):
        mine.program(ProgramKey(gradients=frozenset({"q"}), fused=True))


def test_each_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[object] = []
    real = programs.analyse
    monkeypatch.setattr(programs, "analyse", lambda *args, **options: counted.append(options["wanted"]) or real(*args, **options))
    mine = table()
    assert counted == []
    for _ in range(2):
        for dtype in ("bfloat16", "float16", ""):
            for fused in (False, True):
                assert mine.program(ProgramKey(dtype, fused=fused)).dtype == dtype
    assert counted == [None]


def test_a_call_that_wants_all_gradients_has_the_general_program() -> None:
    mine = table()
    assert mine.gradients(frozenset({"q", "k", "v", "slopes"})) is None
    assert mine.gradients(frozenset({"q", "k", "v"})) == {"q", "k", "v"}
    strict = Programs(catalog.load("alibi_causal").cascade, Options("sm90"), Knobs(strict=True))
    assert strict.gradients(frozenset({"q"})) is None


def test_a_schedule_names_kernels_of_either_form() -> None:
    for role in ("backward_rows", "backward_fused"):
        table(options=Options("sm90", freeze({role: {"num_warps": 4}}))).check_schedule()
    with pytest.raises(ScheduleError, match="no kernel called 'backward_dq'"):
        table(options=Options("sm90", freeze({"backward_dq": {}}))).check_schedule()


def test_what_no_program_can_be_made_of_is_refused_at_once() -> None:
    with pytest.raises((UnsupportedError, attngen.errors.NotStreamable)):
        attngen.compile(
            attngen.cascade(q="b m d", k="b n d")(
                lambda q, k: attngen.sum(attngen.tanh(attngen.sum(attngen.einsum("b m d, b n d -> b m n", q, k), "n")), "m")
            )
        )

"""Every knob is read, typed and documented once; misspelt names are noticed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from attngen import knobs as knobs_module
from attngen.errors import InvalidKnob
from attngen.knobs import TABLE, Knob, Knobs, UnknownKnobWarning, code_knobs


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Knobs.from_env({}) == Knobs()


def test_the_table_and_the_dataclass_list_the_same_knobs() -> None:
    assert [knob.field for knob in TABLE] == [field.name for field in dataclasses.fields(Knobs)]
    assert all(knob.variable == f"ATTNGEN_{knob.field.upper()}" for knob in TABLE)
    assert all(knob.meaning.endswith(".") for knob in TABLE)


def test_every_knob_is_typed() -> None:
    env = {
        "ATTNGEN_CACHE_DIR": "/some/folder",
        "ATTNGEN_STRICT": "1",
        "ATTNGEN_VERIFY": "yes",
        "ATTNGEN_DUMP": "streaming, schedule,",
        "ATTNGEN_INTERPRET": "off",
    }
    assert Knobs.from_env(env) == Knobs(Path("/some/folder"), True, True, ("streaming", "schedule"), False)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_STRICT", "true")
    assert Knobs.from_env().strict


@pytest.mark.parametrize("variable", ["ATTNGEN_STRICT", "ATTNGEN_VERIFY", "ATTNGEN_INTERPRET"])
def test_a_bad_flag_is_refused(variable: str) -> None:
    with pytest.raises(InvalidKnob):
        Knobs.from_env({variable: "maybe"})


def test_a_misspelt_name_is_warned_about_and_the_right_one_named() -> None:
    with pytest.warns(UnknownKnobWarning, match="ATTNGEN_STRICT"):
        assert Knobs.from_env({"ATTNGEN_STRIKT": "1"}) == Knobs()


def test_only_marked_knobs_reach_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = Knob("ATTNGEN_STRICT", "strict", bool, "0 or 1", "A stand-in.", changes_code=True)
    monkeypatch.setattr(knobs_module, "TABLE", (*(knob for knob in TABLE if knob.field != "strict"), marked))
    assert code_knobs(Knobs(strict=True, verify=True)) == (("strict", True),)

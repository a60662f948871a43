"""Alternate kernels stay behind their interface."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attngen.alternates.known_alternates import ALTERNATES, of_role
from attngen.emit.identifiers import RESERVED, tensor_name
from attngen.errors import ScheduleError
from attngen.ir.parser import parse
from attngen.pipeline import analyse, build
from attngen.schedule.tile_schedule import TileSchedule, parse_tile
from tests.variants import SOFTMAX

ROOT = Path(__file__).parents[2]
OWN = ("attngen/alternates/", "attngen/emit/gluon/", "attngen/emit/alternate_text.py", "templates/gluon/")


def test_only_their_rooms_know_which_there_are():
    """Elsewhere stands neither a flag, nor a room, nor what the kernels are made of."""
    known = re.compile(r"specialis|warp.speciali[sz]|alternates\.warp|emit\.gluon", re.IGNORECASE)
    files = [path for folder in ("attngen", "templates") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".j2")]
    outside = [path for path in files if not path.relative_to(ROOT).as_posix().startswith((*OWN, "attngen/interpreter/gluon/"))]
    found = {path.relative_to(ROOT).as_posix() for path in outside if known.search(path.read_text(encoding="utf-8"))}
    assert found == set()


@pytest.mark.parametrize("flag", ALTERNATES)
def test_flags_are_names_that_tiles_are_read_back_by(flag: str):
    assert flag.isidentifier() and flag == flag.lower()
    tile = TileSchedule(streamed=64, num_stages=2, alternate=flag, **ALTERNATES[flag].fields)
    assert parse_tile(str(tile)) == tile and tile.flags[-1] == flag
    assert ALTERNATES[flag] in of_role(ALTERNATES[flag].role)


def test_other_flags_are_refused():
    with pytest.raises(ScheduleError, match="'pingpong' is not an alternate kernel"):
        TileSchedule(128, 64, 8, 2, alternate="pingpong")


@pytest.mark.parametrize("flag", ALTERNATES)
def test_names_of_their_text_are_no_tensor_names(flag: str):
    reserved = ALTERNATES[flag].reserved
    assert reserved and reserved <= RESERVED
    assert all(tensor_name(name) == f"{name}_" for name in reserved)


def test_a_module_has_those_that_are_asked_for_and_that_its_kernels_have():
    program = analyse(parse(SOFTMAX), wanted=frozenset())
    every = frozenset(ALTERNATES)
    has = frozenset(flag for facts in program.facts for flag in facts.alternates)
    source = build(program, "tested", (), every)
    assert source.alternates == has
    for flag in has:
        assert f"def {ALTERNATES[flag].function}(" in source.text and f"def {ALTERNATES[flag].first_function}(" in source.text
    plain = build(program, "tested")
    assert plain.alternates == frozenset() and not any(f"def {ALTERNATES[flag].function}(" in plain.text for flag in has)

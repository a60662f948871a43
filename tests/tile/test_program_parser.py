"""What the printer writes can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.analysis.kv_ranges import KvRanges
from attngen.errors import ParseError
from attngen.tile.nodes import TileProgram
from attngen.tile.program_parser import parse_program
from attngen.tile.program_text import print_program
from tests.tile.programs import CATALOGUE, TEXTS, programs

NORM = """tile_program norm(x[b,m,d], scale[...], first: int) -> y[b,m]
  tiles of m, in parallel over b, summed over r, split by b
  x_value[b,m,d] = load x[b,m,d]
  scale_value = load scale
  total[b,m] = sum[d] x_value
  y_value[b,m] = total[b,m] * scale_value + to_float(start(m) + offset(m) - first)
  store y[b,m] = y_value"""


def without_ranges(program: TileProgram) -> TileProgram:
    loop = program.loop
    return program if loop is None else replace(program, loop=replace(loop, ranges=KvRanges(loop.axis, ())))


@pytest.mark.parametrize("name", (*CATALOGUE, *TEXTS))
def test_programs_are_read_back(name: str) -> None:
    for program in programs(name):
        text = print_program(program)
        found = parse_program(text)
        assert without_ranges(found) == without_ranges(program)
        assert print_program(found) == text


def test_a_program_without_a_loop() -> None:
    found = parse_program(NORM)
    assert print_program(found) == NORM
    assert (found.grid, found.summed, found.split, found.loop) == (("b",), ("r",), "b", None)
    assert [item.number for item in found.params] == [False, False, True, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tile_program norm", "program norm"),
        ("tiles of m, in parallel", "tiles of m"),
        ("x[b,m,d], scale", "x[b;m,d], scale"),
        ("load x[b,m,d]", "load z[b,m,d]"),
        ("load x[b,m,d]", "load x[b,m,d] + 1"),
        ("sum[d] x_value", "sum[d] z_value"),
        ("store y[b,m] = y_value", "store y[b,m]"),
        ("store y[b,m] = y_value", "for tiles of n: nothing\n    z = 1.0"),
        ("store y[b,m] = y_value", "for tiles of n: everything\n    carry z = 1.0"),
        ("scale_value = load scale", "scale_value = load m"),
    ],
)
def test_other_texts_are_refused(old: str, new: str) -> None:
    assert old in NORM
    with pytest.raises(ParseError):
        parse_program(NORM.replace(old, new))


@pytest.mark.parametrize(
    "line",
    [
        "scatter dbias[m,n] = x_value to bias[m,n] where valid (stored)",
        "scatter dtable[h,m,n] = x_value to table[m - n + extent(n),h] (diagonals, keys 0, columns h)",
        "scatter dtable[h,m,n] = x_value to table[m,n,h] where valid (sorted, keys 0 1)",
    ],
)
def test_scatters(line: str) -> None:
    text = f"""tile_program pairs(x[m,n], bias[...], table[...]) -> dbias[m,n]
  tiles of m, in parallel
  for tiles of n: visits n in [0, first) and [last, extent(n)), unmasked in [last, extent(n))
    under masks: valid[m,n] = m >= n
    x_value[m,n] = load x[m,n]
    {line}"""
    assert print_program(parse_program(text)) == text

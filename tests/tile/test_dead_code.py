"""What no output needs is dropped, and outputs stay what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from attngen.tile.dead_code import dead_code
from attngen.tile.nodes import Store, TileProgram
from attngen.tile.program_interpreter import interpret
from attngen.tile.program_parser import parse_program
from attngen.tile.program_text import print_program
from attngen.tile.program_verify import verify
from tests.tile.programs import CATALOGUE, SIZES, TEXTS, drawn, lowered, programs

WHOLE = """tile_program forward(q[b,m,d], k[b,n,d], window: int) -> total[b,m], largest[b,m]
  tiles of m, in parallel over b
  q_value[b,m,d] = load q[b,m,d]
  unused[b,m,d] = q_value[b,m,d] * 2.0
  low[m] = to_float(m)
  for tiles of n: visits n in [0, extent(n)), all of it masked
    carry lost[b,m] = low[m] then lost_new
    carry l_i[b,m] = 0.0 then l_i_new
    carry m_i[b,m] = -inf then m_i_new
    visit where near
    under masks: near[m,n] = m - n <= window
    under masks: odd[m,n] = n % 2 == 1
    under masks: valid[m,n] = near[m,n] and odd[m,n]
    k_value[b,n,d] = load k[b,n,d]
    s[b,m,n] = dot[d] q_value, k_value
    s_seen[b,m,n] = select s where near else 0.0
    s_odd[b,m,n] = select s where valid else -inf
    part[b,m] = sum[n] s_seen
    l_i_new[b,m] = l_i[b,m] + part[b,m]
    lost_new[b,m] = lost[b,m] + part[b,m]
    peak[b,m] = max[n] s_odd
    m_i_new[b,m] = max(m_i[b,m], peak[b,m])
  late[b,m] = l_i[b,m] + lost[b,m]
  store total[b,m] = l_i
  store largest[b,m] = m_i"""
LIVE = """tile_program forward(q[b,m,d], k[b,n,d], window: int) -> total[b,m], largest[b,m]
  tiles of m, in parallel over b
  q_value[b,m,d] = load q[b,m,d]
  for tiles of n: visits n in [0, extent(n)), all of it masked
    carry l_i[b,m] = 0.0 then l_i_new
    carry m_i[b,m] = -inf then m_i_new
    visit where near
    under masks: near[m,n] = m - n <= window
    under masks: odd[m,n] = n % 2 == 1
    under masks: valid[m,n] = near[m,n] and odd[m,n]
    k_value[b,n,d] = load k[b,n,d]
    s[b,m,n] = dot[d] q_value, k_value
    s_seen[b,m,n] = select s where near else 0.0
    s_odd[b,m,n] = select s where valid else -inf
    part[b,m] = sum[n] s_seen
    l_i_new[b,m] = l_i[b,m] + part[b,m]
    peak[b,m] = max[n] s_odd
    m_i_new[b,m] = max(m_i[b,m], peak[b,m])
  store total[b,m] = l_i
  store largest[b,m] = m_i"""
ONLY_TOTAL = """tile_program forward(q[b,m,d], k[b,n,d], window: int) -> total[b,m]
  tiles of m, in parallel over b
  q_value[b,m,d] = load q[b,m,d]
  for tiles of n: visits n in [0, extent(n)), all of it masked
    carry l_i[b,m] = 0.0 then l_i_new
    visit where near
    under masks: near[m,n] = m - n <= window
    k_value[b,n,d] = load k[b,n,d]
    s[b,m,n] = dot[d] q_value, k_value
    s_seen[b,m,n] = select s where near else 0.0
    part[b,m] = sum[n] s_seen
    l_i_new[b,m] = l_i[b,m] + part[b,m]
  store total[b,m] = l_i"""
ADDING = """tile_program columns(k[b,n,d]) -> sums[b,n]
  tiles of m, in parallel over b
  for tiles of n: everything
    visit where near
    under masks: near[m,n] = m >= n
    k_value[b,n,d] = load k[b,n,d]
    sum_value[b,n] = sum[d] k_value
    add sums[b,n] = sum_value"""
NO_LOOP = """tile_program forward(q[b,m,d], k[b,n,d], window: int) -> rows[b,m]
  tiles of m, in parallel over b
  q_value[b,m,d] = load q[b,m,d]
  rows_value[b,m] = sum[d] q_value
  store rows[b,m] = rows_value"""


def test_what_no_output_needs_is_dropped() -> None:
    assert print_program(dead_code(verify(parse_program(WHOLE)))) == LIVE


def test_what_another_output_needed_is_dropped() -> None:
    whole = WHOLE.replace(", largest[b,m]", "").replace("\n  store largest[b,m] = m_i", "")
    assert print_program(dead_code(verify(parse_program(whole)))) == ONLY_TOTAL


def test_a_loop_that_only_adds_to_an_output_stays() -> None:
    assert print_program(dead_code(verify(parse_program(ADDING)))) == ADDING


def test_a_loop_of_which_nothing_is_needed_goes() -> None:
    outputs = "  rows_value[b,m] = sum[d] q_value\n  store rows[b,m] = rows_value"
    whole = WHOLE.replace("total[b,m], largest[b,m]", "rows[b,m]").partition("  late")[0] + outputs
    found = dead_code(verify(parse_program(whole)))
    assert found.loop is None
    assert print_program(found) == NO_LOOP


# ---- the law


def for_one_output(program: TileProgram) -> Iterator[TileProgram]:
    """The program with one of its outputs alone."""
    for name in [item.name for item in program.params if item.output]:
        params = tuple(item for item in program.params if not item.output or item.name == name)
        epilogue = tuple(item for item in program.epilogue if not isinstance(item, Store) or item.tensor == name)
        loop = program.loop
        if loop is not None:
            body = tuple(item for item in loop.body if getattr(item, "tensor", name) == name or not isinstance(item, Store))
            loop = replace(loop, body=body)
        yield replace(program, params=params, epilogue=epilogue, loop=loop)


@pytest.mark.parametrize("name", ["alibi_causal", "differential", "shifted"])
@pytest.mark.parametrize("form", ["", "fused"])
@pytest.mark.slow
def test_outputs_stay_what_they_are(name: str, form: str) -> None:
    for facts, program in lowered(name, form):
        values = {item.name: drawn(item) for item in facts.kernel.inputs}
        before = interpret(program, values, SIZES, (3, 4))
        for part in (program, *for_one_output(program)):
            short = verify(dead_code(part))
            assert set(short.statements) <= set(part.statements)
            for output, value in interpret(short, values, SIZES, (3, 4)).items():
                np.testing.assert_array_equal(value, before[output])


@pytest.mark.parametrize("name", (*CATALOGUE, *TEXTS))
@pytest.mark.slow
def test_the_pass_is_done_at_once(name: str) -> None:
    """Once more changes nothing."""
    for program in programs(name):
        short = dead_code(program)
        assert dead_code(short) == short

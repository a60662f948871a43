"""The text of tile programs: one line a statement."""

from __future__ import annotations

from attngen.ir.expr import Index
from attngen.tile.nodes import Scatter, TileProgram
from attngen.tile.program_text import print_program, print_statement
from tests.tile.programs import programs

FORWARD = """tile_program forward(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e], window: int) -> o[b,g,r,m,e], lse[b,g,r,m]
  tiles of m, in parallel over b, g, r
"""


def role(name: str, role: str) -> TileProgram:
    return next(item for item in programs(name) if item.role == role)


def test_a_program_begins_with_its_parameters_and_axes() -> None:
    assert print_program(role("sliding_window", "forward")).startswith(FORWARD)
    assert "slopes[...]) -> " in print_program(role("alibi_causal", "forward"))
    assert "  tiles of n, in parallel over b, g, summed over r\n" in print_program(role("full", "backward_columns"))
    assert "  tiles of m, in parallel over part, b, g, r, split by part\n" in print_program(role("full", "forward_parts"))


def test_a_loop_says_where_it_goes() -> None:
    text = print_program(role("causal", "forward"))
    assert "  for tiles of n: visits n in [0, min(last + 1, extent(n))), unmasked in [0, min(first + 1, extent(n)))\n" in text
    assert "    carry m_i[b,g,r,m] = -inf then m_i_new\n" in text
    assert "    bounds bound, bound_2, bound, bound_3\n" in text
    assert "    visit where valid\n    under masks: valid[m,n] = to_bool(m >= n)\n" in text


def test_scatters_say_where_and_how() -> None:
    place = (Index("m"), Index("n"))
    stored = Scatter("dbias", "bias", ("m", "n"), "x", place, "stored", "valid")
    assert print_statement(stored) == "scatter dbias[m,n] = x to bias[m,n] where valid (stored)"
    sorted_ = Scatter("dtable", "table", ("h", "m", "n"), "x", (*place, Index("h")), "sorted", "", (0, 1), ("h",))
    assert print_statement(sorted_) == "scatter dtable[h,m,n] = x to table[m,n,h] (sorted, keys 0 1, columns h)"

"""Single operations compute what the expressions did that they are parts of."""

from __future__ import annotations

import numpy as np
import pytest

from attngen.ir.expr import Apply
from attngen.ir.traverse import children
from attngen.tile.nodes import Let
from attngen.tile.operands import exprs
from attngen.tile.program_interpreter import interpret
from attngen.tile.program_parser import parse_program
from attngen.tile.program_text import print_program
from attngen.tile.program_verify import verify
from attngen.tile.three_address import three_address
from tests.tile.programs import CATALOGUE, SIZES, TEXTS, drawn, extents_of_documents, lowered, programs

BEFORE = """tile_program forward(x[m,n], slopes[...], h: int) -> total[m]
  tiles of m, in parallel
  slope = load slopes[h * 2 + 1]
  for tiles of n: everything
    carry total_value[m] = to_float(m - h) then total_value_new
    x_value[m,n] = load x[m,n]
    y[m,n] = x_value[m,n] * extent(n) ** -0.5 + slope * to_float(n - m)
    z[m,n] = y[m,n] + slope * to_float(n - m)
    part[m] = sum[n] z
    total_value_new[m] = total_value[m] + part[m]
  store total[m] = total_value"""
AFTER = """tile_program forward(x[m,n], slopes[...], h: int) -> total[m]
  tiles of m, in parallel
  slopes_1 = h * 2
  slopes_2 = slopes_1 + 1
  slope = load slopes[slopes_2]
  total_value_1[m] = m - h
  total_value_2[m] = to_float(total_value_1[m])
  y_1 = extent(n) ** -0.5
  for tiles of n: everything
    carry total_value[m] = total_value_2[m] then total_value_new
    x_value[m,n] = load x[m,n]
    y_2[m,n] = x_value[m,n] * y_1
    y_3[m,n] = n - m
    y_4[m,n] = to_float(y_3[m,n])
    y_5[m,n] = slope * y_4[m,n]
    y[m,n] = y_2[m,n] + y_5[m,n]
    z[m,n] = y[m,n] + y_5[m,n]
    part[m] = sum[n] z
    total_value_new[m] = total_value[m] + part[m]
  store total[m] = total_value"""


def test_equal_operations_are_one_and_constant_ones_stand_before_the_loop() -> None:
    assert print_program(three_address(verify(parse_program(BEFORE)))) == AFTER


@pytest.mark.parametrize("name", (*CATALOGUE, *TEXTS))
def test_every_let_is_one_operation(name: str) -> None:
    for program in programs(name):
        found = verify(three_address(program))
        for item in found.statements:
            positions = () if isinstance(item, Let) else exprs(item)
            operands = children(item.body) if isinstance(item, Let) and isinstance(item.body, Apply) else positions
            assert not any(isinstance(operand, Apply) for operand in operands)
        assert three_address(found) == found


@pytest.mark.parametrize("name", ["alibi_causal", "prefix_lm", "documents", "dropout", "low_rank", "two_masks"])
@pytest.mark.parametrize("form", ["", "fused"])
@pytest.mark.slow
def test_outputs_stay_what_they_are(name: str, form: str) -> None:
    for facts, program in lowered(name, form):
        values = {item.name: drawn(item) for item in facts.kernel.inputs if item.kind == "float" or "_of_" not in item.name}
        values |= extents_of_documents(facts.kernel, values)
        before, after = (interpret(item, values, SIZES, (3, 4), visits="ranges") for item in (program, three_address(program)))
        for output, value in before.items():
            np.testing.assert_allclose(after[output], value, rtol=1e-13, atol=1e-13)

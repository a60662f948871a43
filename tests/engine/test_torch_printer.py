"""Printed programs do what the interpreter of tile programs says, where values share memory or are numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attngen.engine.cpu_kernel import Launchable
from attngen.tile.program_interpreter import interpret
from attngen.tile.program_parser import parse_program
from attngen.tile.program_verify import verify

HEAD = """tile_program forward(x[m,n]) -> total[m]
  tiles of m, in parallel
  for tiles of n: everything
    carry total_value[m] = 0.0 then total_value_new
    x_value[m,n] = load x[m,n]
"""
TAIL = """
    total_value_new[m] = total_value[m] + part[m]
  store total[m] = total_value"""
BODIES = {
    "a repeated value outlives its source": """    u[m] = sum[n] x_value
    wide[m,n] = to_float(u[m])
    twice[m] = u[m] * 2.0
    product[m,n] = x_value[m,n] * wide[m,n]
    sums[m] = sum[n] product
    part[m] = sums[m] + twice[m]""",
    "an operand that is read again": """    y[m,n] = x_value[m,n] * 2.0
    z[m,n] = y[m,n] + 1.0
    w[m,n] = z[m,n] * y[m,n]
    part[m] = sum[n] w""",
    "a number that is repeated": """    y[m,n] = to_float(extent(n) // 3)
    z[m,n] = x_value[m,n] - y[m,n]
    part[m] = max[n] z""",
    "a number on the left": """    y[m,n] = 1.0 - x_value[m,n]
    z[m,n] = max(0.25, y[m,n])
    w[m,n] = min(z[m,n], 0.75)
    part[m] = sum[n] w""",
    "a choice between numbers": """    y[m,n] = x_value[m,n] > 0.0
    z[m,n] = where(y[m,n], 0.1, 0.2)
    part[m] = sum[n] z""",
}


@pytest.mark.parametrize("body", BODIES)
def test_what_is_printed_is_what_is_meant(body: str) -> None:
    program = verify(parse_program(HEAD + BODIES[body] + TAIL))
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.full((5,), float("nan"), dtype=torch.float64)
    Launchable((), program).whole({"x": x, "total": found}, torch.float64, torch.float64)
    wanted = interpret(program, {"x": x.numpy()}, {"m": 5, "n": 7})["total"]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-14)

"""Twenty steps that use their own value twice, forward and backward, against the reference in float64."""

from __future__ import annotations

import pytest

from tests import reused
from tests.kernels import cases, harness


@pytest.mark.parametrize("name", reused.ALL)
def test_values_and_gradients(name: str) -> None:
    case = cases.case(reused.ALL[name](20).cascade, cases.Sizes(b=1, g=1, r=1, m=5, n=7))
    found = harness.run(case.cascade, case.values, case.cotangents, harness.tiles(16, 16))
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))

"""Expressions of positions, lengths and constants are computed in the type of the sums, whatever Triton would choose by itself."""

from __future__ import annotations

import pytest

from tests import variants
from tests.kernels import cases, harness

ADDED = [
    *("0.1 * n", "0.1 * (n + m)", "1.0 / (n + 1)", "1 / extent(n)", "1.0 / extent(d)", "extent(n) / 3", "(m - n) / extent(m)"),
    *("log(n + 1)", "sin(m)", "sqrt(n)", "exp2(-(n % 5))", "tanh(n - m)", "sigmoid(n - m)", "softplus(m - n)", "gelu(m - n)", "erf(m - n)"),
    *("abs(m - n) * 0.1", "sign(m - n) * 0.3", "floor(n / 3)", "ceil(m / 7.0)", "(n % 3) * 0.3", "(n + 1) ** -0.5", "(n + 1) ** 0.3"),
    *("where(n > m, 0.1, 0.2)", "where(n > 3, 1, 0.3)", "where(n > 3, m, 0.3)", "min(n, 0.3)", "max(m - n, 0.7)", "min(m, n) * 0.7"),
    *("(n < m) * 0.3", "0.3 * ((n < m) + (n > 5))", "to_float(n > m) * 0.1", "to_float(n) / 7", "to_int(n * 0.3) * 0.7", "0.1 * (n ^ m)"),
    *(
        "temp * n",
        "(n // 3) * temp",
        "0.7 * temp",
        "where(m > n, temp, 0.3)",
        "min(temp, 0.3)",
        "logaddexp(temp, 0.3)",
        "safe_div(0.3, m - n)",
    ),
    *("log1p(m * 0.01)", "expm1(-m * 0.01)", "atan(m - n)", "atan2(m - n, n)", "asinh(m - n)", "rint(n * 0.3)", "tanh_small(m - n)"),
    *(
        "(m - n) ** (n % 4) * 0.01",
        "0.001 * (m - n) ** 9",
        "int_pow(m - n, n % 4) * 0.01",
        "int_pow(-1, m) * 0.3",
        "int_pow(m - n, 5) * 1e-6",
        "float16(m * 0.3)",
        "bfloat16(n * 0.3)",
    ),
    *(
        "clamp(m - n, -0.3, 0.7)",
        "hardtanh(m - n, -0.3, 0.7)",
        "clamp_min(m - n, 0.3)",
        "where(n > m, extent(d) ** -0.3, extent(d) * 0.013)",
    ),
    *("n % 3.5", "m // 0.3 * 0.01", "logaddexp(n * 0.1, m)", "relu(m - n) * 0.1", "relu(0.3 - n)"),
]


@pytest.mark.parametrize("added", ADDED)
def test_in_the_type_of_the_sums(added):
    capture = "; temp: float[]" if "temp" in added else ""
    text = variants.SOFTMAX.replace("* 0.25", f"* 0.25 + {added}").replace("v[b,g,n,e])", f"v[b,g,n,e]{capture})")
    case = cases.case(harness.as_cascade(text), cases.Sizes(b=1, g=1, r=2, m=20, n=30))
    found = harness.run(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))

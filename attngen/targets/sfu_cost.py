"""SFU instructions of each operation, helper functions counted by their expansion."""

from __future__ import annotations

SFU_OPS = {
    "exp": 1, "exp2": 1, "log": 1, "log2": 1, "sqrt": 1, "rsqrt": 1, "sin": 1, "cos": 1, "div": 1, "safe_div": 1, "pow": 2, "erf": 2,
    "expm1": 2, "log1p": 2, "atan": 2, "atan2": 2, "asinh": 3, "tanh_small": 2,
    "tanh": 2, "sigmoid": 2, "softplus": 2, "gelu": 2, "gelu_tanh": 3, "logaddexp": 2,
}  # fmt: skip
"""By operation; operations not listed need none."""

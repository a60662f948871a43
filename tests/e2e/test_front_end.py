"""What a call hands to Triton's launcher: every kernel is bound and lowered for sm90, with the arguments of real calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from tests.runtime.front_end import front_end

pytestmark = pytest.mark.usefixtures("triton_interpreter")

SLOPES = torch.exp2(-torch.arange(1, 5, dtype=torch.float32)).requires_grad_()
TABLE = torch.zeros(4, 900).requires_grad_()
DOCUMENT = (torch.arange(600) // 37).to(torch.int16)
WIDTH, RATE = 37, 0.5


@pytest.fixture(autouse=True)
def _own_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, so that no kernels are shared with tests that run them."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


SPECS: dict[str, Callable[[], attngen.Spec]] = {
    "plain": lambda: attngen.attention(),
    "alibi": lambda: attngen.attention(score_mod=lambda s, b, h, q, k: s + SLOPES[h] * (k - q), mask_mod=causal),
    "window": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q >= k) & (q - k < WIDTH)),
    "number": lambda: attngen.attention(score_mod=lambda s, b, h, q, k: s + RATE * (k - q)),
    "dilated": lambda: attngen.attention(mask_mod=lambda b, h, q, k: ((q - k) % 2 == 0) & (q >= k)),
    "listed": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q * 3 + k) % 7 < 3),
    "documents": lambda: attngen.attention(mask_mod=lambda b, h, q, k: DOCUMENT[q] == DOCUMENT[k]),
    "relative": lambda: attngen.attention(score_mod=lambda s, b, h, q, k: s + TABLE[h, q - k + 450]),
    "sink": lambda: attngen.attention(mask_mod=causal, sink=torch.zeros(4, requires_grad=True)),
    "dropout": lambda: attngen.attention(dropout=0.1),
}


def tensors(shape: tuple[int, int, int, int], groups: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries [batch, heads, rows, features], and keys and values."""
    batch, _, _, features = shape
    return [torch.zeros(size, dtype=dtype, requires_grad=True) for size in (shape, *[(batch, groups, keys, features)] * 2)]


def both(attend: attngen.Attention, args: list[Tensor]) -> None:
    """Forward and backward, whose cotangent has strides of 0."""
    torch.autograd.grad(attend(*args).float().sum(), args)


@pytest.mark.parametrize("name", SPECS)
def test_training_calls(name: str) -> None:
    attend = attngen.compile(SPECS[name]())
    with front_end() as lowered:
        both(attend, tensors((2, 4, 300, 64), 2, 300))
        if name == "plain":
            both(attend, tensors((1, 4, 257, 80), 4, 100, torch.float16))
        roles = {kernel.partition("_kernel")[0] for kernel, _ in lowered}
        assert "forward" in roles
        assert any(role.startswith("backward") for role in roles)
        known = len(lowered)
        both(attend, tensors((2, 4, 300, 64), 2, 300))
        assert len(lowered) == known, "a call like one before builds nothing"


@pytest.mark.parametrize("name", ["plain", "alibi", "window", "documents"])
def test_calls_of_few_queries(name: str) -> None:
    attend = attngen.compile(SPECS[name]())
    with front_end() as lowered, torch.no_grad():
        attend(*tensors((1, 4, 1, 128), 1, 590))
    assert lowered


@pytest.mark.parametrize("name", ["plain", "window", "documents"])
def test_specialised_warps(name: str) -> None:
    attend = attngen.compile(SPECS[name](), schedule={"forward": {"SPECIALISED": True, "BLOCK_N": 64, "num_stages": 2}})
    with front_end() as lowered, torch.no_grad():
        attend(*tensors((2, 4, 300, 64), 2, 300))
    assert [kernel for kernel, _ in lowered if kernel.startswith("forward")] == ["forward_specialised_kernel"]

"""Captures are read at each call: whatever a user binds anew is what counts, with its gradient, also in copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.runtime.shared import _KERNELS
from tests.runtime.holders import HOLDERS, Holder

HEADS, ROWS, KEYS, DIM = 2, 5, 7, 16
Mod = Callable[..., Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors() -> list[Tensor]:
    return [numbers(1, HEADS, length, DIM, seed=seed) for seed, length in enumerate((ROWS, KEYS, KEYS))]


def dense(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod | None = None, mask_mod: Mod | None = None) -> Tensor:
    """Attention by PyTorch, with the mods as plain Python."""
    at = (
        torch.zeros((1, 1, 1, 1), dtype=torch.int64),
        *(torch.arange(length).view(shape) for length, shape in ((HEADS, (-1, 1, 1)), (ROWS, (-1, 1)), (KEYS, (-1,)))),
    )
    s = q @ k.mT * DIM**-0.5
    s = s if score_mod is None else score_mod(s, *at)
    keep = torch.ones_like(s, dtype=torch.bool) if mask_mod is None else mask_mod(*at).expand_as(s)
    alive = keep.any(-1, keepdim=True)
    p = torch.softmax(torch.where(alive, s.masked_fill(~keep, -torch.inf), 0.0), -1)
    return torch.where(alive, p, 0.0) @ v


def follows(run: Any, score_mod: Mod | None, mask_mod: Mod | None = None, leaf: Tensor | None = None, tol: float = 1e-11) -> None:
    """Values, and the gradient of a captured tensor."""
    given = tensors()
    found, right = run(*given), dense(*given, score_mod, mask_mod)
    torch.testing.assert_close(found, right, rtol=tol, atol=tol)
    if leaf is not None:
        grads = (torch.autograd.grad(value.square().sum(), leaf)[0] for value in (found, right))
        torch.testing.assert_close(*grads, rtol=tol, atol=tol)


# ---- random programs


def bind(holder: Holder, action: str, seed: int) -> None:
    """What a user does between two calls."""
    if action == "tensor":
        holder.put("bias", numbers(HEADS, seed=seed).requires_grad_())
    elif action == "longer tensor":
        holder.put("bias", numbers(HEADS + 2, seed=seed))
    elif action == "none":
        holder.put("bias", None)
    else:
        holder.put("reach", 1 + seed % KEYS)


@pytest.mark.parametrize("kind", HOLDERS)
@settings(max_examples=3, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["tensor", "number", "longer tensor", "none"]), min_size=2, max_size=4),
    first=st.booleans(),
    copied=st.sampled_from(["", "copy", "deepcopy"]),
)
def test_what_is_bound_counts(kind: str, actions: list[str], first: bool, copied: str) -> None:
    """Random programs over all ways to hold a value: the reference after every step, the kernels after the last."""
    holder = HOLDERS[kind](numbers(HEADS).requires_grad_() if first else None, 3)
    attend = attngen.compile(attngen.attention(holder.score, holder.mask))
    attend = {"": lambda x: x, "copy": copy.copy, "deepcopy": lambda x: copy.deepcopy(x) if holder.whole is None else x}[copied](attend)
    for seed, action in enumerate(actions, 1):
        bind(holder, action, seed)
        follows(attend.reference, holder.score, holder.mask)
    last = numbers(HEADS, seed=99).requires_grad_()
    holder.put("bias", last)
    leaf = next((item for item in getattr(holder.whole, "parameters", tuple)()), last)
    follows(attend, holder.score, holder.mask, leaf)


@pytest.mark.parametrize("kind", [name for name in HOLDERS if name not in ("helper functions", "partials", "attributes of a class")])
def test_values_need_no_other_kernels(kind: str) -> None:
    holder = HOLDERS[kind](numbers(HEADS).requires_grad_(), 3)
    attend = attngen.compile(attngen.attention(holder.score, holder.mask))
    attend.reference(*tensors())
    built, traces = len(_KERNELS), list(attend._following._traces)
    for seed in range(3):
        bind(holder, "tensor", seed)
        bind(holder, "number", seed)
        follows(attend.reference, holder.score, holder.mask)
    assert len(_KERNELS) == built
    assert attend._following._traces == traces

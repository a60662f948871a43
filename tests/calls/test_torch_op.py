"""Custom operators: inputs keep the names that the user gave them."""

from __future__ import annotations

from typing import Any

import torch

import attngen
from tests.e2e.dense import FEW, normal


def test_arguments_with_names_that_kernels_use() -> None:
    @attngen.cascade(pid="b m d", accumulator="b n d", rows="b n e", half_m="b m")
    def named(pid: Any, accumulator: Any, rows: Any, half_m: Any) -> Any:
        s = attngen.einsum("b m d, b n d -> b m n", pid, accumulator) * half_m
        p = attngen.dropout(attngen.softmax(s, over="n"), 0.2)
        return attngen.einsum("b m n, b n e -> b m e", p, rows)

    attend = attngen.compile(named, schedule=FEW)
    tensors = [normal(1, 20, 16), normal(1, 30, 16, seed=1), normal(1, 30, 16, seed=2), normal(1, 20, seed=3)]
    mine, right = attend(*tensors, seed=1), attend.reference(*tensors, seed=1)
    found = torch.autograd.grad(mine.square().sum(), tensors)
    expected = torch.autograd.grad(right.square().sum(), tensors)
    for one, other in zip((mine, *found), (right, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)

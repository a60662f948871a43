"""A tiny module of the kind the compiler emits; `self_check` of the interpreter runs it to find out whether Triton's insides have moved.

It uses what emitted kernels use: a helper that returns a tuple, a loop with run-time bounds, a bf16 dot, reductions and masks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _step(acc, total, x_ptr, y_ptr, start, n, BLOCK: tl.constexpr):
    offs = start + tl.arange(0, BLOCK)
    rows = tl.arange(0, BLOCK)
    inside = offs < n
    x = tl.load(x_ptr + rows[:, None] * n + offs[None, :], mask=inside[None, :], other=0.0)
    y = tl.load(y_ptr + offs[:, None] * BLOCK + rows[None, :], mask=inside[:, None], other=0.0)
    acc = tl.dot(x, y, acc, input_precision="ieee")
    total += tl.sum(x.to(tl.float32), 1)
    return acc, total


@triton.jit
def _kernel(x_ptr, y_ptr, out_ptr, n, scale, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tl.cdiv(n, BLOCK) * BLOCK, BLOCK):
        acc, total = _step(acc, total, x_ptr, y_ptr, start, n, BLOCK)
    out = (acc + total[:, None]) * scale
    tl.store(out_ptr + rows[:, None] * BLOCK + rows[None, :], out.to(tl.bfloat16))


def run() -> bool:
    """Whether the kernel, as launched from this module, computes (x @ y + row sums of x) * scale, with 16 x 24 and 24 x 16 bf16 values."""
    block, n, scale = 16, 24, 0.5
    x = (torch.arange(block * n) % 7 - 3).reshape(block, n).to(torch.bfloat16)
    y = (torch.arange(n * block) % 5 - 2).reshape(n, block).to(torch.bfloat16)
    out = torch.full((block, block), float("nan"), dtype=torch.bfloat16)
    _kernel[(1,)](x, y, out, n, scale, BLOCK=tl.constexpr(block))
    expected = (x.float() @ y.float() + x.float().sum(1, keepdim=True)) * scale
    return torch.equal(out, expected.to(torch.bfloat16))

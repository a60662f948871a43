"""The ordinary one-pass loop, written by hand: the baseline for emitted kernels.

A program has a resident tile of queries and loops over the keys; for each KV tile it computes scores, weights and their dot with the values
in sequence. PARTIAL tiles have a loop of their own. Tensors are [heads, positions, features], contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _visit(
    acc, row_max, row_sum, q, k_ptr, v_ptr, scale, rows, start, stop, DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr
):
    """Accumulate the KV tiles from `start` to `stop` into [BLOCK_M, DIM] and [BLOCK_M]."""
    features = tl.arange(0, DIM)
    for first in range(start, stop, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + keys[None, :] * DIM + features[:, None])
        scores = tl.dot(q, k) * scale
        if MASKED:
            scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        correction = tl.exp2(row_max - new_max)
        row_sum = row_sum * correction + tl.sum(weights, 1)
        v = tl.load(v_ptr + keys[:, None] * DIM + features[None, :])
        acc = tl.dot(weights.to(v.dtype), v, acc * correction[:, None])
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def one_pass_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, n, scale, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr
):
    """Attention of `n` queries to `n` keys, `n` a multiple of the tiles; `scale` contains log2(e), lse is in base 2."""
    first = tl.program_id(0) * BLOCK_M
    start = tl.program_id(1).to(tl.int64) * n
    q_ptr, k_ptr, v_ptr, o_ptr = q_ptr + start * DIM, k_ptr + start * DIM, v_ptr + start * DIM, o_ptr + start * DIM
    rows = first + tl.arange(0, BLOCK_M)
    features = tl.arange(0, DIM)
    q = tl.load(q_ptr + rows[:, None] * DIM + features[None, :])
    acc = tl.zeros([BLOCK_M, DIM], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    if CAUSAL:
        whole = first // BLOCK_N * BLOCK_N
        acc, row_max, row_sum = _visit(acc, row_max, row_sum, q, k_ptr, v_ptr, scale, rows, 0, whole, DIM, BLOCK_N, False)
        acc, row_max, row_sum = _visit(acc, row_max, row_sum, q, k_ptr, v_ptr, scale, rows, whole, first + BLOCK_M, DIM, BLOCK_N, True)
    else:
        acc, row_max, row_sum = _visit(acc, row_max, row_sum, q, k_ptr, v_ptr, scale, rows, 0, n, DIM, BLOCK_N, False)
    tl.store(o_ptr + rows[:, None] * DIM + features[None, :], (acc / row_sum[:, None]).to(o_ptr.dtype.element_ty))
    tl.store(lse_ptr + start + rows, row_max + tl.log2(row_sum))

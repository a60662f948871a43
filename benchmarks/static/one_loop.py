"""The one-pass loop with Triton's own warp specialisation (`tl.range(warp_specialize=True)`), written by hand.

Triton 3.6 specialises the warps of a kernel with exactly one loop, whose tiles are loaded by descriptors and whose dots feed nothing in the
next iteration; so every iteration is masked, and no dot is prefetched. Tensors are [heads, positions, features], contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def one_loop_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, n, scale, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr
):
    """Attention of `n` queries to `n` keys, `n` a multiple of the tiles; `scale` contains log2(e), lse is in base 2."""
    first = tl.program_id(0) * BLOCK_M
    start = tl.program_id(1).to(tl.int64) * n
    rows = first + tl.arange(0, BLOCK_M)
    features = tl.arange(0, DIM)
    q_rows = tl.make_tensor_descriptor(q_ptr + start * DIM, [n, DIM], [DIM, 1], [BLOCK_M, DIM])
    k_rows = tl.make_tensor_descriptor(k_ptr + start * DIM, [n, DIM], [DIM, 1], [BLOCK_N, DIM])
    v_rows = tl.make_tensor_descriptor(v_ptr + start * DIM, [n, DIM], [DIM, 1], [BLOCK_N, DIM])
    q = q_rows.load([first, 0])
    acc = tl.zeros([BLOCK_M, DIM], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    stop = first + BLOCK_M if CAUSAL else n
    for place in tl.range(0, stop, BLOCK_N, warp_specialize=True):
        scores = tl.dot(q, tl.trans(k_rows.load([place, 0]))) * scale
        if CAUSAL:
            keys = place + tl.arange(0, BLOCK_N)
            scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        correction = tl.exp2(row_max - new_max)
        row_sum = row_sum * correction + tl.sum(weights, 1)
        v = v_rows.load([place, 0])
        acc = tl.dot(weights.to(v.dtype), v, acc * correction[:, None])
        row_max = new_max
    tl.store(o_ptr + start * DIM + rows[:, None] * DIM + features[None, :], (acc / row_sum[:, None]).to(o_ptr.dtype.element_ty))
    tl.store(lse_ptr + start + rows, row_max + tl.log2(row_sum))

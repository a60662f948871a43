"""A module as the compiler would emit it: attention forward, and small kernels that use one feature each."""

import torch
import triton
import triton.language as tl


@triton.jit
def score_mod(score, q_idx, kv_idx, slope):
    return score + slope * (kv_idx - q_idx)


@triton.jit
def _attend(acc, m_i, l_i, q, k_ptr, v_ptr, offs_m, start, Nkv, slope, D: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr):
    offs_n = start + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    inside = offs_n < Nkv
    k = tl.load(k_ptr + offs_n[:, None] * D + offs_d[None, :], mask=inside[:, None], other=0.0)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    s = score_mod(s, offs_m[:, None], offs_n[None, :], slope) * 1.4426950408889634
    keep = inside[None, :]
    if CAUSAL:
        keep = keep & (offs_m[:, None] >= offs_n[None, :])
    s = tl.where(keep, s, -float("inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1))
    shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp2(s - shift[:, None])
    alpha = tl.exp2(m_i - shift)
    l_i = l_i * alpha + tl.sum(p, 1)
    v = tl.load(v_ptr + offs_n[:, None] * D + offs_d[None, :], mask=inside[:, None], other=0.0)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee", out_dtype=acc.dtype)
    return acc, m_new, l_i


@triton.jit
def attention_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, Nq, Nkv, slope,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    q_ptr += head * Nq * D
    k_ptr += head * Nkv * D
    v_ptr += head * Nkv * D
    o_ptr += head * Nq * D
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, D)
    rows = offs_m < Nq
    q = tl.load(q_ptr + offs_m[:, None] * D + offs_d[None, :], mask=rows[:, None], other=0.0)
    acc = tl.zeros((BLOCK_M, D), ACC)
    m_i = tl.full((BLOCK_M,), -float("inf"), ACC)
    l_i = tl.zeros((BLOCK_M,), ACC)
    hi = tl.minimum((tl.program_id(0) + 1) * BLOCK_M, Nkv) if CAUSAL else Nkv
    for start in range(0, hi, BLOCK_N):
        acc, m_i, l_i = _attend(acc, m_i, l_i, q, k_ptr, v_ptr, offs_m, start, Nkv, slope, D, BLOCK_N, CAUSAL)
    acc = acc / tl.where(l_i == 0.0, 1.0, l_i)[:, None]
    tl.store(o_ptr + offs_m[:, None] * D + offs_d[None, :], acc.to(o_ptr.dtype.element_ty), mask=rows[:, None])
    tl.store(lse_ptr + head * Nq + offs_m, (m_i + tl.log2(l_i)) * 0.6931471805599453, mask=rows)


def attention(q, k, v, slope=0.0, causal=False, block_m=32, block_n=16):
    """o and lse for q [H, Nq, D], k and v [H, Nkv, D]."""
    heads, rows, dim = q.shape
    double = q.dtype == torch.float64
    o = torch.full_like(q, float("nan"))
    lse = torch.full((heads, rows), float("nan"), dtype=torch.float64 if double else torch.float32, device=q.device)
    grid = (triton.cdiv(rows, block_m), heads)
    attention_kernel[grid](
        q, k, v, o, lse, rows, k.shape[1], slope, D=dim, BLOCK_M=block_m, BLOCK_N=block_n, CAUSAL=causal,
        ACC=tl.float64 if double else tl.float32, num_warps=4, num_stages=2,
    )  # fmt: skip
    return o, lse


@triton.jit
def sum_columns_kernel(x_ptr, out_ptr, total_ptr, n, BLOCK: tl.constexpr, REPEAT: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n, other=0.0)
    for i in tl.static_range(REPEAT):
        tl.atomic_add(out_ptr + i, tl.sum(x, 0))
    tl.atomic_add(total_ptr + offs % 2, x, mask=offs < n)


@triton.jit
def bfloat16_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs)
    y = tl.load(y_ptr + offs)
    tl.store(out_ptr + offs, x * 2.0 + y)
    tl.store(out_ptr + n + offs, tl.where(x > y, x, -y))
    tl.store(out_ptr + 2 * n + offs, tl.maximum(x, y) / y)
    tl.store(out_ptr + 3 * n + offs, tl.abs(x) - y.to(tl.float32))
    tl.store(out_ptr + 4 * n + offs, x.sum(0) + tl.zeros((BLOCK,), tl.bfloat16))


@triton.jit
def scalars_kernel(out_ptr, f, i, flag, wide: tl.float64, missing):
    if missing is None:
        tl.store(out_ptr, f)
    tl.store(out_ptr + 1, i)
    if flag and i > 3:
        tl.store(out_ptr + 2, 1.0)
    tl.store(out_ptr + 3, wide)


@triton.jit
def loop_variable_kernel(out_ptr, lo, hi, STEP: tl.constexpr):
    for start in range(lo, hi, STEP):
        tl.store(out_ptr + start.to(tl.int64), start)
    for start in tl.range(lo, hi, STEP, num_stages=2):
        tl.store(out_ptr + start + 1, start)


@triton.jit
def block_truth_kernel(x_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.store(x_ptr + tl.arange(0, BLOCK), x, mask=(x > 0.0) and (x < 1.0))


@triton.jit
def shifted_kernel(out_ptr, first, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(out_ptr + offsets, offsets + (first + 1))

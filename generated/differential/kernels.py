"""Attention variant `differential`: fused forward and backward.

Emitted by attngen 0.1.0; needs torch and triton only.

cascade(q1[b,g,r,m,d], q2[b,g,r,m,d], k1[b,g,n,d], k2[b,g,n,d], v[b,g,n,e], lam[g,r])
  s1[b,g,r,m,n] = sum[d] q1[b,g,r,m,d] * k1[b,g,n,d]
  x[b,g,r,m,n] = s1[b,g,r,m,n] * extent(d) ** -0.5
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,g,n,d]
  x2[b,g,r,m,n] = s2[b,g,r,m,n] * extent(d) ** -0.5
  lse2[b,g,r,m] = logsumexp[n] x2[b,g,r,m,n]
  t1[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m]) - lam[g,r] * exp(x2[b,g,r,m,n] - lse2[b,g,r,m])
  o[b,g,r,m,e] = sum[n] t1[b,g,r,m,n] * v[b,g,n,e]
  -> o

Names: an axis `a` has `len_a` positions. A program owns a tile of BLOCK_A of them, at `offs_a`, of
which `ok_a` exist; `first_a` and `last_a` are the outermost. `outer` is its place among the other
axes of programs. `DIM_A` is the length of a feature axis, `PAD_A` that of its tile. `DTYPE` is the
type in memory, `ACC` that of sums and statistics. `x_ptr` is an argument, `x_out` a result,
`x_start` the first element of a tile and `x_ptrs` all of them. `m_i` is a running maximum, `alpha`
what sums are multiplied by when it moves.
"""

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def exp_scaled(x, scale, floor, DTYPE: tl.constexpr):
    """exp(x * scale - floor), with the product and the difference in one rounding."""
    if DTYPE.primitive_bitwidth == 16:
        power = tl.fma(x, tl.cast(scale * LOG2E, x.dtype), -(floor * LOG2E))
    else:
        power = tl.fma(x, tl.full((), scale, x.dtype), -floor) * LOG2E
    return tl.exp2(power)


@triton.jit
def finite(x, DTYPE: tl.constexpr):
    """x, or 0 where nothing is above it: at -inf, at half precision near the end of fp32."""
    if DTYPE.primitive_bitwidth == 16:
        nothing = x < -2.0e38
    else:
        nothing = x == float("-inf")
    return tl.where(nothing, 0.0, x)


@triton.jit
def load(pointers, ok, FULL: tl.constexpr):
    """A tile; positions that are not `ok` read as 0. FULL promises that all are."""
    if FULL:
        value = tl.load(pointers)
    else:
        value = tl.load(pointers, mask=ok, other=0)
    return value


@triton.jit
def safe_div(a, b):
    """a / b, and 0 where b is 0."""
    return tl.where(b == 0.0, 0.0, a / tl.where(b == 0.0, 1.0, b))


@triton.jit
def tiled(
    first, rows, stride, columns, BLOCK: tl.constexpr, WIDTH: tl.constexpr, TMA: tl.constexpr
):
    """What `fetch` takes tiles from: a matrix by its descriptor, or by its first element."""
    if TMA:
        matrix = tl.make_tensor_descriptor(first, [rows, columns], [stride, 1], [BLOCK, WIDTH])
    else:
        matrix = first
    return matrix


@triton.jit
def tiled_heads(
    first,
    heads,
    head_stride,
    rows,
    stride,
    columns,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    TMA: tl.constexpr,
):
    """The same for a stack of matrices, of which `fetch_head` takes tiles."""
    if TMA:
        shape = [tl.cast(heads, tl.int32), rows, columns]
        stack = tl.make_tensor_descriptor(first, shape, [head_stride, stride, 1], [1, BLOCK, WIDTH])
    else:
        stack = first
    return stack


@triton.jit
def fetch(
    matrix,
    start,
    stride,
    ok,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    FULL: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile of BLOCK rows from `start` on; what is not `ok` reads as 0. FULL: all is."""
    if TMA:
        tile = matrix.load([tl.cast(start, tl.int32), 0])
    else:
        rows = matrix + tl.cast(start, tl.int64) * stride
        pointers = rows + tl.arange(0, BLOCK)[:, None] * stride + tl.arange(0, WIDTH)[None, :]
        tile = load(pointers, ok, FULL)
    return tile


@triton.jit
def fetch_head(
    stack,
    head,
    head_stride,
    start,
    stride,
    ok,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    FULL: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile of BLOCK rows of one matrix of a stack, from `start` on, as `fetch` has it."""
    if TMA:
        place = [tl.cast(head, tl.int32), tl.cast(start, tl.int32), 0]
        tile = stack.load(place).reshape(BLOCK, WIDTH)
    else:
        tile = fetch(stack + head * head_stride, start, stride, ok, BLOCK, WIDTH, FULL, False)
    return tile


@triton.jit
def forward_products(
    k1_rows,
    k1_stride_n,
    q1,
    k2_rows,
    k2_stride_n,
    q2,
    len_n,
    range_n,
    start_n,
    BLOCK_N: tl.constexpr,
    DIM_D: tl.constexpr,
    TMA: tl.constexpr,
    ACC: tl.constexpr,
    FULL: tl.constexpr,
):
    """What the tile of n that starts at `start_n` is multiplied to.

    s1[b,g,r,m,n] = sum[d] q1[b,g,r,m,d] * k1[b,g,n,d]
    s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,g,n,d]
    """
    ok_n = start_n + range_n < len_n
    k1 = fetch(k1_rows, start_n, k1_stride_n, ok_n[:, None], BLOCK_N, DIM_D, FULL, TMA)
    s1 = tl.dot(q1, tl.trans(k1), input_precision="ieee", out_dtype=ACC)
    k2 = fetch(k2_rows, start_n, k2_stride_n, ok_n[:, None], BLOCK_N, DIM_D, FULL, TMA)
    s2 = tl.dot(q2, tl.trans(k2), input_precision="ieee", out_dtype=ACC)
    return s1, s2


@triton.jit(do_not_specialize=["lam_stride_g", "len_b", "len_g", "len_r", "len_m", "len_n"])
def forward_kernel(
    q1_ptr,
    k1_ptr,
    q2_ptr,
    k2_ptr,
    v_ptr,
    lam_ptr,
    o_out,
    acc_end_out,
    lse_out,
    lse2_out,
    q1_stride_b,
    q1_stride_g,
    q1_stride_r,
    q1_stride_m,
    k1_stride_b,
    k1_stride_g,
    k1_stride_n,
    q2_stride_b,
    q2_stride_g,
    q2_stride_r,
    q2_stride_m,
    k2_stride_b,
    k2_stride_g,
    k2_stride_n,
    v_stride_b,
    v_stride_g,
    v_stride_n,
    lam_stride_g,
    lam_stride_r,
    len_b,
    len_g,
    len_r,
    len_m,
    len_n,
    DIM_D: tl.constexpr,
    DIM_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    PIPE: tl.constexpr = False,
    LATE: tl.constexpr = False,
    TMA: tl.constexpr = False,
):
    """Rows stay, the streamed axis passes: outputs and row statistics.

    s1[b,g,r,m,n] = sum[d] q1[b,g,r,m,d] * k1[b,g,n,d]
    w[b,g,r,m,n] = exp(s1[b,g,r,m,n] * extent(d) ** -0.5 - m_i[b,g,r,m])
    l_i[b,g,r,m] = sum[n] w[b,g,r,m,n]
    lse[b,g,r,m] = m_i[b,g,r,m] + log(l_i[b,g,r,m])
    s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,g,n,d]
    w2[b,g,r,m,n] = exp(s2[b,g,r,m,n] * extent(d) ** -0.5 - m_i2[b,g,r,m])
    l_i2[b,g,r,m] = sum[n] w2[b,g,r,m,n]
    lse2[b,g,r,m] = m_i2[b,g,r,m] + log(l_i2[b,g,r,m])
    acc[b,g,r,m,e] = sum[n] w2[b,g,r,m,n] * v[b,g,n,e]
    acc2[b,g,r,m,e] = sum[n] w[b,g,r,m,n] * v[b,g,n,e]
    o[b,g,r,m,e] = safe_div(acc2[b,g,r,m,e], l_i[b,g,r,m]) - safe_div(acc[b,g,r,m,e] * lam[g,r],
        l_i2[b,g,r,m])
    acc_end[b,g,r,m,e] = safe_div(acc[b,g,r,m,e], l_i2[b,g,r,m])
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(len_m, BLOCK_M)
    first_m = pid % tiles_m * BLOCK_M
    start_m = tl.cast(tl.cast(first_m, tl.uint32), tl.int64)
    outer = pid // tiles_m
    r = tl.cast(outer % len_r, tl.int64)
    rest = outer // len_r
    g = tl.cast(rest % len_g, tl.int64)
    rest = rest // len_g
    b = tl.cast(rest, tl.int64)
    range_m = tl.arange(0, BLOCK_M)
    offs_m = first_m + range_m
    ok_m = offs_m < len_m
    range_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, DIM_D)
    offs_e = tl.arange(0, DIM_E)
    # What it keeps.
    q1_start = q1_ptr + b * q1_stride_b + g * q1_stride_g + r * q1_stride_r + start_m * q1_stride_m
    q1_ptrs = q1_start + range_m[:, None] * q1_stride_m + offs_d[None, :]
    q1 = tl.load(q1_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k1_base = k1_ptr + b * k1_stride_b + g * k1_stride_g
    k1_rows = tiled(k1_base, len_n, k1_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    q2_start = q2_ptr + b * q2_stride_b + g * q2_stride_g + r * q2_stride_r + start_m * q2_stride_m
    q2_ptrs = q2_start + range_m[:, None] * q2_stride_m + offs_d[None, :]
    q2 = tl.load(q2_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k2_base = k2_ptr + b * k2_stride_b + g * k2_stride_g
    k2_rows = tiled(k2_base, len_n, k2_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    lam = tl.load(lam_ptr + g * lam_stride_g + r * lam_stride_r).to(ACC)
    begin = 0
    end = len_n
    full_end = tl.maximum(len_n // BLOCK_N * BLOCK_N, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    m_i = tl.full((BLOCK_M,), float("-inf"), ACC)
    m_i2 = tl.full((BLOCK_M,), float("-inf"), ACC)
    acc2 = tl.zeros((BLOCK_M, DIM_E), ACC)
    l_i = tl.zeros((BLOCK_M,), ACC)
    acc = tl.zeros((BLOCK_M, DIM_E), ACC)
    l_i2 = tl.zeros((BLOCK_M,), ACC)
    if PIPE:  # the first tile
        s1_next, s2_next = forward_products(
            k1_rows,
            k1_stride_n,
            q1,
            k2_rows,
            k2_stride_n,
            q2,
            len_n,
            range_n,
            begins[0],
            BLOCK_N,
            DIM_D,
            TMA,
            ACC,
            False,
        )
    for segment in tl.static_range(2):  # full, then under masks
        for start_n in range(begins[segment], ends[segment], BLOCK_N):
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            ahead_n = start_n
            if PIPE:
                ahead_n = start_n + BLOCK_N
            if not LATE:
                s1_formed, s2_formed = forward_products(
                    k1_rows,
                    k1_stride_n,
                    q1,
                    k2_rows,
                    k2_stride_n,
                    q2,
                    len_n,
                    range_n,
                    ahead_n,
                    BLOCK_N,
                    DIM_D,
                    TMA,
                    ACC,
                    segment == 0 and not PIPE,
                )
            s1 = s1_next if PIPE else s1_formed
            s2 = s2_next if PIPE else s2_formed
            if segment != 0:
                valid = ok_n[None, :]
                s1 = tl.where(valid, s1, float("-inf"))
            m_i_new = tl.maximum(m_i, tl.max(s1, 1) * DIM_D**-0.5)
            if LATE:
                s1_formed, s2_formed = forward_products(
                    k1_rows,
                    k1_stride_n,
                    q1,
                    k2_rows,
                    k2_stride_n,
                    q2,
                    len_n,
                    range_n,
                    ahead_n,
                    BLOCK_N,
                    DIM_D,
                    TMA,
                    ACC,
                    False,
                )
            if PIPE:
                s1_next = s1_formed
                s2_next = s2_formed
            m_i_safe = m_i_new
            if segment != 0:
                m_i_safe = finite(m_i_new, DTYPE)
            alpha = tl.exp2((m_i - m_i_safe) * LOG2E)
            acc2 = acc2 * alpha[:, None]
            w = exp_scaled(s1, DIM_D**-0.5, m_i_safe[:, None], DTYPE)
            l_i = l_i * alpha + tl.sum(w, 1)
            if segment != 0:
                s2 = tl.where(valid, s2, float("-inf"))
            m_i2_new = tl.maximum(m_i2, tl.max(s2, 1) * DIM_D**-0.5)
            m_i2_safe = m_i2_new
            if segment != 0:
                m_i2_safe = finite(m_i2_new, DTYPE)
            alpha2 = tl.exp2((m_i2 - m_i2_safe) * LOG2E)
            acc = acc * alpha2[:, None]
            w2 = exp_scaled(s2, DIM_D**-0.5, m_i2_safe[:, None], DTYPE)
            l_i2 = l_i2 * alpha2 + tl.sum(w2, 1)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            acc = tl.dot(w2.to(DTYPE), v, acc, input_precision="ieee", out_dtype=ACC)
            acc2 = tl.dot(w.to(DTYPE), v, acc2, input_precision="ieee", out_dtype=ACC)
            m_i = m_i_new
            m_i2 = m_i2_new
    # What is left to do after the last tile.
    lse = m_i + tl.log(l_i)
    lse2 = m_i2 + tl.log(l_i2)
    o = safe_div(acc2, l_i[:, None]) - safe_div(acc * lam, l_i2[:, None])
    acc_end = safe_div(acc, l_i2[:, None])
    o_start = o_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    o_ptrs = o_start + range_m[:, None] * DIM_E + offs_e[None, :]
    tl.store(o_ptrs, o.to(o_out.dtype.element_ty), mask=ok_m[:, None])
    acc_end_start = acc_end_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    acc_end_ptrs = acc_end_start + range_m[:, None] * DIM_E + offs_e[None, :]
    tl.store(acc_end_ptrs, acc_end.to(acc_end_out.dtype.element_ty), mask=ok_m[:, None])
    lse_start = lse_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse_ptrs = lse_start + range_m
    tl.store(lse_ptrs, lse.to(lse_out.dtype.element_ty), mask=ok_m)
    lse2_start = lse2_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse2_ptrs = lse2_start + range_m
    tl.store(lse2_ptrs, lse2.to(lse2_out.dtype.element_ty), mask=ok_m)


@triton.jit(do_not_specialize=["lam_stride_g", "len_b", "len_g", "len_r", "len_m"])
def backward_prepare_kernel(
    lse_ptr,
    lse2_ptr,
    do_ptr,
    acc_end_ptr,
    lam_ptr,
    o_ptr,
    dl_i2_out,
    dl_i_out,
    dlam_out,
    lse_safe_out,
    lse2_safe_out,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
    lam_stride_g,
    lam_stride_r,
    len_b,
    len_g,
    len_r,
    len_m,
    DIM_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Row values of the backward that need a whole row of features.

    lse_safe[b,g,r,m] = where(lse[b,g,r,m] == -inf, inf, lse[b,g,r,m])
    lse2_safe[b,g,r,m] = where(lse2[b,g,r,m] == -inf, inf, lse2[b,g,r,m])
    dl_i2_sum[b,g,r,m] = sum[e] do[b,g,r,m,e] * acc_end[b,g,r,m,e]
    dl_i2[b,g,r,m] = dl_i2_sum[b,g,r,m] * lam[g,r]
    dl_i_sum[b,g,r,m] = sum[e] do[b,g,r,m,e] * (o[b,g,r,m,e] + acc_end[b,g,r,m,e] * lam[g,r])
    dl_i[b,g,r,m] = -dl_i_sum[b,g,r,m]
    dlam[b,g,r,m] = -dl_i2_sum[b,g,r,m]
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(len_m, BLOCK_M)
    first_m = pid % tiles_m * BLOCK_M
    start_m = tl.cast(tl.cast(first_m, tl.uint32), tl.int64)
    outer = pid // tiles_m
    r = tl.cast(outer % len_r, tl.int64)
    rest = outer // len_r
    g = tl.cast(rest % len_g, tl.int64)
    rest = rest // len_g
    b = tl.cast(rest, tl.int64)
    range_m = tl.arange(0, BLOCK_M)
    offs_m = first_m + range_m
    ok_m = offs_m < len_m
    offs_e = tl.arange(0, DIM_E)
    # What it keeps.
    lse_start = lse_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    lse_ptrs = lse_start + range_m
    lse = tl.load(lse_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    lse_safe = tl.where(lse == float("-inf"), float("inf"), lse)
    lse2_start = lse2_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    lse2_ptrs = lse2_start + range_m
    lse2 = tl.load(lse2_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    lse2_safe = tl.where(lse2 == float("-inf"), float("inf"), lse2)
    do_start = do_ptr + b * do_stride_b + g * do_stride_g + r * do_stride_r + start_m * do_stride_m
    do_ptrs = do_start + range_m[:, None] * do_stride_m + offs_e[None, :]
    do = tl.load(do_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    acc_end_start = acc_end_ptr + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    acc_end_ptrs = acc_end_start + range_m[:, None] * DIM_E + offs_e[None, :]
    acc_end = tl.load(acc_end_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    dl_i2_sum = tl.sum(do.to(ACC) * acc_end.to(ACC), 1)
    lam = tl.load(lam_ptr + g * lam_stride_g + r * lam_stride_r).to(ACC)
    dl_i2 = dl_i2_sum * lam
    o_start = o_ptr + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    o_ptrs = o_start + range_m[:, None] * DIM_E + offs_e[None, :]
    o = tl.load(o_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    dl_i_sum = tl.sum(do.to(ACC) * (o.to(ACC) + acc_end.to(ACC) * lam), 1)
    dl_i = -dl_i_sum
    dlam = -dl_i2_sum
    # What is left to do after the last tile.
    dl_i2_start = dl_i2_out + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i2_ptrs = dl_i2_start + range_m
    tl.store(dl_i2_ptrs, dl_i2.to(dl_i2_out.dtype.element_ty), mask=ok_m)
    dl_i_start = dl_i_out + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i_ptrs = dl_i_start + range_m
    tl.store(dl_i_ptrs, dl_i.to(dl_i_out.dtype.element_ty), mask=ok_m)
    dlam_start = dlam_out + tl.cast(outer, tl.int64) * len_m + start_m
    dlam_ptrs = dlam_start + range_m
    tl.store(dlam_ptrs, dlam.to(dlam_out.dtype.element_ty), mask=ok_m)
    lse_safe_start = lse_safe_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse_safe_ptrs = lse_safe_start + range_m
    tl.store(lse_safe_ptrs, lse_safe.to(lse_safe_out.dtype.element_ty), mask=ok_m)
    lse2_safe_start = lse2_safe_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse2_safe_ptrs = lse2_safe_start + range_m
    tl.store(lse2_safe_ptrs, lse2_safe.to(lse2_safe_out.dtype.element_ty), mask=ok_m)


@triton.jit(do_not_specialize=["lam_stride_g", "len_b", "len_g", "len_r", "len_m", "len_n"])
def backward_rows_kernel(
    q1_ptr,
    k1_ptr,
    q2_ptr,
    k2_ptr,
    do_ptr,
    v_ptr,
    lse_safe_ptr,
    lse2_safe_ptr,
    lam_ptr,
    dl_i2_ptr,
    dl_i_ptr,
    dq1_out,
    dq2_out,
    q1_stride_b,
    q1_stride_g,
    q1_stride_r,
    q1_stride_m,
    k1_stride_b,
    k1_stride_g,
    k1_stride_n,
    q2_stride_b,
    q2_stride_g,
    q2_stride_r,
    q2_stride_m,
    k2_stride_b,
    k2_stride_g,
    k2_stride_n,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
    v_stride_b,
    v_stride_g,
    v_stride_n,
    lam_stride_g,
    lam_stride_r,
    len_b,
    len_g,
    len_r,
    len_m,
    len_n,
    DIM_D: tl.constexpr,
    DIM_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    TMA: tl.constexpr = False,
):
    """Rows stay, the streamed axis passes: gradients of what belongs to rows.

    s1[b,g,r,m,n] = sum[d] q1[b,g,r,m,d] * k1[b,g,n,d]
    w[b,g,r,m,n] = exp(s1[b,g,r,m,n] * extent(d) ** -0.5 - lse_safe[b,g,r,m])
    s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,g,n,d]
    w2[b,g,r,m,n] = exp(s2[b,g,r,m,n] * extent(d) ** -0.5 - lse2_safe[b,g,r,m])
    dw2_part_sum[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]
    dw2_part[b,g,r,m,n] = -(dw2_part_sum[b,g,r,m,n] * lam[g,r])
    dw2[b,g,r,m,n] = dl_i2[b,g,r,m] + dw2_part[b,g,r,m,n]
    dx2[b,g,r,m,n] = dw2[b,g,r,m,n] * w2[b,g,r,m,n]
    dw[b,g,r,m,n] = dl_i[b,g,r,m] + dw2_part_sum[b,g,r,m,n]
    dx[b,g,r,m,n] = dw[b,g,r,m,n] * w[b,g,r,m,n]
    dq1_sum[b,g,r,m,d] = sum[n] dx[b,g,r,m,n] * k1[b,g,n,d]
    dq1[b,g,r,m,d] = dq1_sum[b,g,r,m,d] * extent(d) ** -0.5
    dq2_sum[b,g,r,m,d] = sum[n] dx2[b,g,r,m,n] * k2[b,g,n,d]
    dq2[b,g,r,m,d] = dq2_sum[b,g,r,m,d] * extent(d) ** -0.5
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(len_m, BLOCK_M)
    first_m = pid % tiles_m * BLOCK_M
    start_m = tl.cast(tl.cast(first_m, tl.uint32), tl.int64)
    outer = pid // tiles_m
    r = tl.cast(outer % len_r, tl.int64)
    rest = outer // len_r
    g = tl.cast(rest % len_g, tl.int64)
    rest = rest // len_g
    b = tl.cast(rest, tl.int64)
    range_m = tl.arange(0, BLOCK_M)
    offs_m = first_m + range_m
    ok_m = offs_m < len_m
    range_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, DIM_D)
    offs_e = tl.arange(0, DIM_E)
    # What it keeps.
    q1_start = q1_ptr + b * q1_stride_b + g * q1_stride_g + r * q1_stride_r + start_m * q1_stride_m
    q1_ptrs = q1_start + range_m[:, None] * q1_stride_m + offs_d[None, :]
    q1 = tl.load(q1_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k1_base = k1_ptr + b * k1_stride_b + g * k1_stride_g
    k1_rows = tiled(k1_base, len_n, k1_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    q2_start = q2_ptr + b * q2_stride_b + g * q2_stride_g + r * q2_stride_r + start_m * q2_stride_m
    q2_ptrs = q2_start + range_m[:, None] * q2_stride_m + offs_d[None, :]
    q2 = tl.load(q2_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k2_base = k2_ptr + b * k2_stride_b + g * k2_stride_g
    k2_rows = tiled(k2_base, len_n, k2_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    do_start = do_ptr + b * do_stride_b + g * do_stride_g + r * do_stride_r + start_m * do_stride_m
    do_ptrs = do_start + range_m[:, None] * do_stride_m + offs_e[None, :]
    do = tl.load(do_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    lse_safe_start = lse_safe_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    lse_safe_ptrs = lse_safe_start + range_m
    lse_safe = tl.load(lse_safe_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    lse2_safe_start = lse2_safe_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    lse2_safe_ptrs = lse2_safe_start + range_m
    lse2_safe = tl.load(lse2_safe_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    lam = tl.load(lam_ptr + g * lam_stride_g + r * lam_stride_r).to(ACC)
    dl_i2_start = dl_i2_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i2_ptrs = dl_i2_start + range_m
    dl_i2 = tl.load(dl_i2_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    dl_i_start = dl_i_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i_ptrs = dl_i_start + range_m
    dl_i = tl.load(dl_i_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    begin = 0
    end = len_n
    full_end = tl.maximum(len_n // BLOCK_N * BLOCK_N, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    dq2_sum = tl.zeros((BLOCK_M, DIM_D), ACC)
    dq1_sum = tl.zeros((BLOCK_M, DIM_D), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        for start_n in range(begins[segment], ends[segment], BLOCK_N):
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            k1 = fetch(
                k1_rows, start_n, k1_stride_n, ok_n[:, None], BLOCK_N, DIM_D, segment == 0, TMA
            )
            s1 = tl.dot(q1, tl.trans(k1), input_precision="ieee", out_dtype=ACC)
            k2 = fetch(
                k2_rows, start_n, k2_stride_n, ok_n[:, None], BLOCK_N, DIM_D, segment == 0, TMA
            )
            s2 = tl.dot(q2, tl.trans(k2), input_precision="ieee", out_dtype=ACC)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            dw2_part_sum = tl.dot(do, tl.trans(v), input_precision="ieee", out_dtype=ACC)
            w = exp_scaled(s1, DIM_D**-0.5, lse_safe[:, None], DTYPE)
            if segment != 0:
                valid = ok_n[None, :]
                w = tl.where(valid, w, 0.0)
            w2 = exp_scaled(s2, DIM_D**-0.5, lse2_safe[:, None], DTYPE)
            if segment != 0:
                w2 = tl.where(valid, w2, 0.0)
            dw2_part = -(dw2_part_sum * lam)
            dw2 = dl_i2[:, None] + dw2_part
            dx2 = dw2 * w2
            dw = dl_i[:, None] + dw2_part_sum
            dx = dw * w
            dq2_sum = tl.dot(dx2.to(DTYPE), k2, dq2_sum, input_precision="ieee", out_dtype=ACC)
            dq1_sum = tl.dot(dx.to(DTYPE), k1, dq1_sum, input_precision="ieee", out_dtype=ACC)
    # What is left to do after the last tile.
    dq1 = dq1_sum * DIM_D**-0.5
    dq2 = dq2_sum * DIM_D**-0.5
    dq1_start = dq1_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_D
    dq1_ptrs = dq1_start + range_m[:, None] * DIM_D + offs_d[None, :]
    tl.store(dq1_ptrs, dq1.to(dq1_out.dtype.element_ty), mask=ok_m[:, None])
    dq2_start = dq2_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_D
    dq2_ptrs = dq2_start + range_m[:, None] * DIM_D + offs_d[None, :]
    tl.store(dq2_ptrs, dq2.to(dq2_out.dtype.element_ty), mask=ok_m[:, None])


@triton.jit(do_not_specialize=["lam_stride_g", "len_b", "len_g", "len_r", "len_n", "len_m"])
def backward_columns_kernel(
    k1_ptr,
    q1_ptr,
    k2_ptr,
    q2_ptr,
    v_ptr,
    do_ptr,
    lse_safe_ptr,
    lse2_safe_ptr,
    lam_ptr,
    dl_i2_ptr,
    dl_i_ptr,
    dk1_out,
    dk2_out,
    dv_out,
    k1_stride_b,
    k1_stride_g,
    k1_stride_n,
    q1_stride_b,
    q1_stride_g,
    q1_stride_r,
    q1_stride_m,
    k2_stride_b,
    k2_stride_g,
    k2_stride_n,
    q2_stride_b,
    q2_stride_g,
    q2_stride_r,
    q2_stride_m,
    v_stride_b,
    v_stride_g,
    v_stride_n,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
    lam_stride_g,
    lam_stride_r,
    len_b,
    len_g,
    len_r,
    len_n,
    len_m,
    DIM_D: tl.constexpr,
    DIM_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    TMA: tl.constexpr = False,
):
    """The streamed axis stays, rows pass: gradients of what belongs to it.

    s1[b,g,r,m,n] = sum[d] q1[b,g,r,m,d] * k1[b,g,n,d]
    w[b,g,r,m,n] = exp(s1[b,g,r,m,n] * extent(d) ** -0.5 - lse_safe[b,g,r,m])
    s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,g,n,d]
    w2[b,g,r,m,n] = exp(s2[b,g,r,m,n] * extent(d) ** -0.5 - lse2_safe[b,g,r,m])
    dw2_part_sum[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]
    dw2_part[b,g,r,m,n] = -(dw2_part_sum[b,g,r,m,n] * lam[g,r])
    dw2[b,g,r,m,n] = dl_i2[b,g,r,m] + dw2_part[b,g,r,m,n]
    dx2[b,g,r,m,n] = dw2[b,g,r,m,n] * w2[b,g,r,m,n]
    dw[b,g,r,m,n] = dl_i[b,g,r,m] + dw2_part_sum[b,g,r,m,n]
    dx[b,g,r,m,n] = dw[b,g,r,m,n] * w[b,g,r,m,n]
    dk1_sum[b,g,n,d] = sum[r,m] dx[b,g,r,m,n] * q1[b,g,r,m,d]
    dk1[b,g,n,d] = dk1_sum[b,g,n,d] * extent(d) ** -0.5
    dk2_sum[b,g,n,d] = sum[r,m] dx2[b,g,r,m,n] * q2[b,g,r,m,d]
    dk2[b,g,n,d] = dk2_sum[b,g,n,d] * extent(d) ** -0.5
    dv[b,g,n,e] = sum[r,m] do[b,g,r,m,e] * (w[b,g,r,m,n] - lam[g,r] * w2[b,g,r,m,n])
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(len_n, BLOCK_N)
    first_n = pid % tiles_n * BLOCK_N
    start_n = tl.cast(tl.cast(first_n, tl.uint32), tl.int64)
    outer = pid // tiles_n
    g = tl.cast(outer % len_g, tl.int64)
    rest = outer // len_g
    b = tl.cast(rest, tl.int64)
    range_n = tl.arange(0, BLOCK_N)
    offs_n = first_n + range_n
    ok_n = offs_n < len_n
    range_m = tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, DIM_D)
    offs_e = tl.arange(0, DIM_E)
    # What it keeps.
    k1_start = k1_ptr + b * k1_stride_b + g * k1_stride_g + start_n * k1_stride_n
    k1_ptrs = k1_start + range_n[:, None] * k1_stride_n + offs_d[None, :]
    k1 = tl.load(k1_ptrs, mask=ok_n[:, None], other=0)  # [BLOCK_N, DIM_D]
    q1_base = q1_ptr + b * q1_stride_b + g * q1_stride_g
    q1_rows = tiled_heads(
        q1_base, len_r, q1_stride_r, len_m, q1_stride_m, DIM_D, BLOCK_M, DIM_D, TMA
    )
    k2_start = k2_ptr + b * k2_stride_b + g * k2_stride_g + start_n * k2_stride_n
    k2_ptrs = k2_start + range_n[:, None] * k2_stride_n + offs_d[None, :]
    k2 = tl.load(k2_ptrs, mask=ok_n[:, None], other=0)  # [BLOCK_N, DIM_D]
    q2_base = q2_ptr + b * q2_stride_b + g * q2_stride_g
    q2_rows = tiled_heads(
        q2_base, len_r, q2_stride_r, len_m, q2_stride_m, DIM_D, BLOCK_M, DIM_D, TMA
    )
    v_start = v_ptr + b * v_stride_b + g * v_stride_g + start_n * v_stride_n
    v_ptrs = v_start + range_n[:, None] * v_stride_n + offs_e[None, :]
    v = tl.load(v_ptrs, mask=ok_n[:, None], other=0)  # [BLOCK_N, DIM_E]
    do_base = do_ptr + b * do_stride_b + g * do_stride_g
    do_rows = tiled_heads(
        do_base, len_r, do_stride_r, len_m, do_stride_m, DIM_E, BLOCK_M, DIM_E, TMA
    )
    begin = 0
    end = len_m
    full_end = tl.maximum(len_m // BLOCK_M * BLOCK_M, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    dv = tl.zeros((BLOCK_N, DIM_E), ACC)
    dk2_sum = tl.zeros((BLOCK_N, DIM_D), ACC)
    dk1_sum = tl.zeros((BLOCK_N, DIM_D), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        steps = tl.cdiv(ends[segment] - begins[segment], BLOCK_M)
        for item in range(len_r * steps):
            r = tl.cast(item // steps, tl.int64)
            start_m = begins[segment] + item % steps * BLOCK_M
            lam_address = lam_ptr + g * lam_stride_g + r * lam_stride_r
            lam = tl.load(lam_address).to(ACC)
            offs_m = start_m + range_m
            ok_m = offs_m < len_m
            q1 = fetch_head(
                q1_rows,
                r,
                q1_stride_r,
                start_m,
                q1_stride_m,
                ok_m[:, None],
                BLOCK_M,
                DIM_D,
                segment == 0,
                TMA,
            )
            s1 = tl.dot(k1, tl.trans(q1), input_precision="ieee", out_dtype=ACC)
            q2 = fetch_head(
                q2_rows,
                r,
                q2_stride_r,
                start_m,
                q2_stride_m,
                ok_m[:, None],
                BLOCK_M,
                DIM_D,
                segment == 0,
                TMA,
            )
            s2 = tl.dot(k2, tl.trans(q2), input_precision="ieee", out_dtype=ACC)
            do = fetch_head(
                do_rows,
                r,
                do_stride_r,
                start_m,
                do_stride_m,
                ok_m[:, None],
                BLOCK_M,
                DIM_E,
                segment == 0,
                TMA,
            )
            dw2_part_sum = tl.dot(v, tl.trans(do), input_precision="ieee", out_dtype=ACC)
            lse_safe_start = lse_safe_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            lse_safe_start += tl.cast(start_m, tl.int64)
            lse_safe_ptrs = lse_safe_start + range_m
            lse_safe = load(lse_safe_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            w = exp_scaled(s1, DIM_D**-0.5, lse_safe[None, :], DTYPE)
            if segment != 0:
                valid = ok_m[None, :]
                w = tl.where(valid, w, 0.0)
            lse2_safe_start = lse2_safe_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            lse2_safe_start += tl.cast(start_m, tl.int64)
            lse2_safe_ptrs = lse2_safe_start + range_m
            lse2_safe = load(lse2_safe_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            w2 = exp_scaled(s2, DIM_D**-0.5, lse2_safe[None, :], DTYPE)
            if segment != 0:
                w2 = tl.where(valid, w2, 0.0)
            dw2_part = -(dw2_part_sum * lam)
            dl_i2_start = dl_i2_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            dl_i2_start += tl.cast(start_m, tl.int64)
            dl_i2_ptrs = dl_i2_start + range_m
            dl_i2 = load(dl_i2_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            dw2 = dl_i2[None, :] + dw2_part
            dx2 = dw2 * w2
            dl_i_start = dl_i_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            dl_i_start += tl.cast(start_m, tl.int64)
            dl_i_ptrs = dl_i_start + range_m
            dl_i = load(dl_i_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            dw = dl_i[None, :] + dw2_part_sum
            dx = dw * w
            dv_in = w - lam * w2
            dv = tl.dot(dv_in.to(DTYPE), do, dv, input_precision="ieee", out_dtype=ACC)
            dk2_sum = tl.dot(dx2.to(DTYPE), q2, dk2_sum, input_precision="ieee", out_dtype=ACC)
            dk1_sum = tl.dot(dx.to(DTYPE), q1, dk1_sum, input_precision="ieee", out_dtype=ACC)
    # What is left to do after the last tile.
    dk1 = dk1_sum * DIM_D**-0.5
    dk2 = dk2_sum * DIM_D**-0.5
    dk1_start = dk1_out + (tl.cast(outer, tl.int64) * len_n + start_n) * DIM_D
    dk1_ptrs = dk1_start + range_n[:, None] * DIM_D + offs_d[None, :]
    tl.store(dk1_ptrs, dk1.to(dk1_out.dtype.element_ty), mask=ok_n[:, None])
    dk2_start = dk2_out + (tl.cast(outer, tl.int64) * len_n + start_n) * DIM_D
    dk2_ptrs = dk2_start + range_n[:, None] * DIM_D + offs_d[None, :]
    tl.store(dk2_ptrs, dk2.to(dk2_out.dtype.element_ty), mask=ok_n[:, None])
    dv_start = dv_out + (tl.cast(outer, tl.int64) * len_n + start_n) * DIM_E
    dv_ptrs = dv_start + range_n[:, None] * DIM_E + offs_e[None, :]
    tl.store(dv_ptrs, dv.to(dv_out.dtype.element_ty), mask=ok_n[:, None])


def launch(kernel, programs, args, constants, tile):
    """Run one kernel on the device and stream of its tensors; nothing to do for an empty grid."""
    if programs > 0:
        with torch.cuda.device_of(args[0]):
            triton.set_allocator(memory_of_descriptors)
            kernel[(programs,)](*args, **constants, **tile)


def near(tensor, tiles, *dims):
    """The tensor, or a copy if its positions along `dims` lie so far apart that an offset inside of
    a tile would leave 32 bits. From 2**31 on a stride has 64 bits, and so has all it multiplies."""
    steps = [step for step in map(tensor.stride, dims) if 2**23 <= step < 2**31]
    if not steps:
        return tensor
    sizes = [tile[name] for tile in tiles.values() for name in tile if name.startswith("BLOCK_")]
    return tensor.contiguous() if max(steps) * (max(sizes) - 1) >= 2**31 else tensor


def described(tile, *tensors):
    """The tile, without descriptors if a tensor cannot have one: it has elements, starts at a
    multiple of 16 bytes and strides over some."""
    if not tile.get("TMA", False):
        return tile
    steps = [step * tensor.element_size() for tensor in tensors for step in tensor.stride()[:-1]]
    aligned = all(place % 16 == 0 for place in (*steps, *(tensor.data_ptr() for tensor in tensors)))
    filled = all(step > 0 for step in steps) and all(tensor.numel() > 0 for tensor in tensors)
    return {**tile, "TMA": aligned and filled}


def memory_of_descriptors(size, alignment, stream):
    """Where the programs of a launch put their descriptors, at offsets of 32 bits."""
    if size >= 2**31:
        raise ValueError("too many programs for descriptors: set TMA to False in their tile")
    return torch.empty(size, dtype=torch.int8, device="cuda")


def forward(q1, q2, k1, k2, v, lam, tiles):
    """Returns o, acc_end, lse, lse2.

    Tensors have the axes of the cascade as dimensions, so heads are split; features are contiguous.
    `tiles` has the blocks, warps and stages of each kernel by its role.
    """
    k1 = near(k1, tiles, 2)
    k2 = near(k2, tiles, 2)
    q1 = near(q1, tiles, 3)
    q2 = near(q2, tiles, 3)
    v = near(v, tiles, 2)
    len_b = q1.shape[0]
    len_g = q1.shape[1]
    len_r = q1.shape[2]
    len_m = q1.shape[3]
    len_d = q1.shape[4]
    len_n = k1.shape[2]
    len_e = v.shape[3]
    accumulator = torch.float64 if q1.dtype == torch.float64 else torch.float32
    tile = described(tiles["forward"], k1, k2, v)
    o = torch.empty((len_b, len_g, len_r, len_m, len_e), dtype=q1.dtype, device=q1.device)
    acc_end = torch.empty((len_b, len_g, len_r, len_m, len_e), dtype=q1.dtype, device=q1.device)
    lse = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
    lse2 = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
    args = (
        q1,
        k1,
        q2,
        k2,
        v,
        lam,
        o,
        acc_end,
        lse,
        lse2,
        q1.stride(0),
        q1.stride(1),
        q1.stride(2),
        q1.stride(3),
        k1.stride(0),
        k1.stride(1),
        k1.stride(2),
        q2.stride(0),
        q2.stride(1),
        q2.stride(2),
        q2.stride(3),
        k2.stride(0),
        k2.stride(1),
        k2.stride(2),
        v.stride(0),
        v.stride(1),
        v.stride(2),
        lam.stride(0),
        lam.stride(1),
        len_b,
        len_g,
        len_r,
        len_m,
        len_n,
    )
    constants = {
        "DIM_D": len_d,
        "DIM_E": len_e,
        "DTYPE": TYPES[q1.dtype],
        "ACC": TYPES[accumulator],
    }
    programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
    launch(forward_kernel, programs, args, constants, tile)
    return o, acc_end, lse, lse2


def backward(q1, q2, k1, k2, v, lam, o, acc_end, lse, lse2, do, tiles, needed):
    """Gradients of the inputs named in `needed`, by name."""
    do = near(do, tiles, 3)
    k1 = near(k1, tiles, 2)
    k2 = near(k2, tiles, 2)
    q1 = near(q1, tiles, 3)
    q2 = near(q2, tiles, 3)
    v = near(v, tiles, 2)
    len_b = q1.shape[0]
    len_g = q1.shape[1]
    len_r = q1.shape[2]
    len_m = q1.shape[3]
    len_d = q1.shape[4]
    len_n = k1.shape[2]
    len_e = v.shape[3]
    accumulator = torch.float64 if q1.dtype == torch.float64 else torch.float32
    if needed & {"k1", "k2", "lam", "q1", "q2", "v"}:
        tile = tiles["backward_prepare"]
        dl_i2 = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
        dl_i = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
        dlam = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
        lse_safe = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
        lse2_safe = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q1.device)
        args = (
            lse,
            lse2,
            do,
            acc_end,
            lam,
            o,
            dl_i2,
            dl_i,
            dlam,
            lse_safe,
            lse2_safe,
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            lam.stride(0),
            lam.stride(1),
            len_b,
            len_g,
            len_r,
            len_m,
        )
        constants = {"DIM_E": len_e, "DTYPE": TYPES[q1.dtype], "ACC": TYPES[accumulator]}
        programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
        launch(backward_prepare_kernel, programs, args, constants, tile)
    if needed & {"q1", "q2"}:
        tile = described(tiles["backward_rows"], k1, k2, v)
        dq1 = torch.empty((len_b, len_g, len_r, len_m, len_d), dtype=q1.dtype, device=q1.device)
        dq2 = torch.empty((len_b, len_g, len_r, len_m, len_d), dtype=q1.dtype, device=q1.device)
        args = (
            q1,
            k1,
            q2,
            k2,
            do,
            v,
            lse_safe,
            lse2_safe,
            lam,
            dl_i2,
            dl_i,
            dq1,
            dq2,
            q1.stride(0),
            q1.stride(1),
            q1.stride(2),
            q1.stride(3),
            k1.stride(0),
            k1.stride(1),
            k1.stride(2),
            q2.stride(0),
            q2.stride(1),
            q2.stride(2),
            q2.stride(3),
            k2.stride(0),
            k2.stride(1),
            k2.stride(2),
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            v.stride(0),
            v.stride(1),
            v.stride(2),
            lam.stride(0),
            lam.stride(1),
            len_b,
            len_g,
            len_r,
            len_m,
            len_n,
        )
        constants = {
            "DIM_D": len_d,
            "DIM_E": len_e,
            "DTYPE": TYPES[q1.dtype],
            "ACC": TYPES[accumulator],
        }
        programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
        launch(backward_rows_kernel, programs, args, constants, tile)
    if needed & {"k1", "k2", "v"}:
        tile = described(tiles["backward_columns"], q1, q2, do)
        dk1 = torch.empty((len_b, len_g, len_n, len_d), dtype=q1.dtype, device=q1.device)
        dk2 = torch.empty((len_b, len_g, len_n, len_d), dtype=q1.dtype, device=q1.device)
        dv = torch.empty((len_b, len_g, len_n, len_e), dtype=q1.dtype, device=q1.device)
        args = (
            k1,
            q1,
            k2,
            q2,
            v,
            do,
            lse_safe,
            lse2_safe,
            lam,
            dl_i2,
            dl_i,
            dk1,
            dk2,
            dv,
            k1.stride(0),
            k1.stride(1),
            k1.stride(2),
            q1.stride(0),
            q1.stride(1),
            q1.stride(2),
            q1.stride(3),
            k2.stride(0),
            k2.stride(1),
            k2.stride(2),
            q2.stride(0),
            q2.stride(1),
            q2.stride(2),
            q2.stride(3),
            v.stride(0),
            v.stride(1),
            v.stride(2),
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            lam.stride(0),
            lam.stride(1),
            len_b,
            len_g,
            len_r,
            len_n,
            len_m,
        )
        constants = {
            "DIM_D": len_d,
            "DIM_E": len_e,
            "DTYPE": TYPES[q1.dtype],
            "ACC": TYPES[accumulator],
        }
        programs = triton.cdiv(len_n, tile["BLOCK_N"]) * len_b * len_g
        launch(backward_columns_kernel, programs, args, constants, tile)
    gradients = {}
    if "q1" in needed:
        gradients["q1"] = dq1.to(q1.dtype)
    if "q2" in needed:
        gradients["q2"] = dq2.to(q2.dtype)
    if "k1" in needed:
        gradients["k1"] = dk1.to(k1.dtype)
    if "k2" in needed:
        gradients["k2"] = dk2.to(k2.dtype)
    if "v" in needed:
        gradients["v"] = dv.to(v.dtype)
    if "lam" in needed:
        dlam = dlam.sum((0, 3))
        gradients["lam"] = dlam.to(lam.dtype)
    return gradients

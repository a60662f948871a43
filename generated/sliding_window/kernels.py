"""Attention variant `sliding_window`: fused forward and backward.

Emitted by attngen 0.1.0; needs torch and triton only.

cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]; window: int)
  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
  x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5  if m >= n and m - n < window
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]  if m >= n and m - n < window
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])  if m >= n and m - n < window
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]  if m >= n and m - n < window
  -> o, lse

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
def below(a, b, EARLY: tl.constexpr):
    """Whether a < b; EARLY: by a difference, which leaves exponentials beside products."""
    if EARLY:
        holds = a - b < 0
    else:
        holds = a < b
    return holds


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
def position(bound, length):
    """A bound within its axis, in 32 bits again."""
    return tl.cast(tl.minimum(tl.maximum(bound, 0), length), tl.int32)


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
def wide(number):
    """A captured integer with room for sums and products; beyond 2**40 all are alike to a mask."""
    return tl.minimum(tl.maximum(tl.cast(number, tl.int64), -(2**40)), 2**40)


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
def forward_bounds(first_m, last_m, window, len_n, BLOCK_N: tl.constexpr):
    """Which tiles along n a tile along m meets.

    It visits n in [max(0, first - window + 1), min(last + 1, extent(n))), unmasked in [max(0, last
        - window + 1), min(first + 1, extent(n))).
    """
    window = wide(window)
    bound = position(first_m - window + 1, len_n)
    begin = bound // BLOCK_N * BLOCK_N
    end = tl.minimum(last_m + 1, len_n)
    full_begin = tl.maximum(tl.cdiv(position(last_m - window + 1, len_n), BLOCK_N) * BLOCK_N, begin)
    full_length = tl.maximum(tl.minimum(first_m + 1, len_n) // BLOCK_N * BLOCK_N - full_begin, 0)
    return begin, full_begin, full_length, end


@triton.jit
def forward_products(
    k_rows,
    k_stride_n,
    q,
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

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    """
    ok_n = start_n + range_n < len_n
    k = fetch(k_rows, start_n, k_stride_n, ok_n[:, None], BLOCK_N, DIM_D, FULL, TMA)
    s = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=ACC)
    return s


@triton.jit(do_not_specialize=["window", "len_b", "len_g", "len_r", "len_m", "len_n"])
def forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    o_out,
    lse_out,
    window,
    q_stride_b,
    q_stride_g,
    q_stride_r,
    q_stride_m,
    k_stride_b,
    k_stride_g,
    k_stride_n,
    v_stride_b,
    v_stride_g,
    v_stride_n,
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

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    w[b,g,r,m,n] = exp(s[b,g,r,m,n] * extent(d) ** -0.5 - m_i[b,g,r,m])  if m >= n and m - n <
        window
    l_i[b,g,r,m] = sum[n] w[b,g,r,m,n]  if m >= n and m - n < window
    lse[b,g,r,m] = m_i[b,g,r,m] + log(l_i[b,g,r,m])
    acc[b,g,r,m,e] = sum[n] w[b,g,r,m,n] * v[b,g,n,e]  if m >= n and m - n < window
    o[b,g,r,m,e] = safe_div(acc[b,g,r,m,e], l_i[b,g,r,m])
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(len_m, BLOCK_M)
    first_m = pid % tiles_m * BLOCK_M
    last_m = tl.minimum(first_m + BLOCK_M, len_m) - 1
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
    EARLY: tl.constexpr = PIPE and not LATE  # the next products are formed before the maximum
    q_start = q_ptr + b * q_stride_b + g * q_stride_g + r * q_stride_r + start_m * q_stride_m
    q_ptrs = q_start + range_m[:, None] * q_stride_m + offs_d[None, :]
    q = tl.load(q_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k_base = k_ptr + b * k_stride_b + g * k_stride_g
    k_rows = tiled(k_base, len_n, k_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    begin, full_begin, full_length, end = forward_bounds(first_m, last_m, window, len_n, BLOCK_N)
    begins = (full_begin, begin)
    ends = (full_begin + full_length, end - full_length)
    # What it carries along.
    m_i = tl.full((BLOCK_M,), float("-inf"), ACC)
    acc = tl.zeros((BLOCK_M, DIM_E), ACC)
    l_i = tl.zeros((BLOCK_M,), ACC)
    if PIPE:  # the first tile
        masked_n = begins[1]
        masked_n += tl.where(masked_n >= full_begin, full_length, 0)
        next_n = begins[0]
        next_n = tl.where(begins[0] < ends[0], next_n, masked_n)
        s_next = forward_products(
            k_rows, k_stride_n, q, len_n, range_n, next_n, BLOCK_N, DIM_D, TMA, ACC, False
        )
    for segment in tl.static_range(2):  # full, then under masks
        for turn_n in range(begins[segment], ends[segment], BLOCK_N):
            start_n = turn_n
            if segment != 0:
                start_n += tl.where(start_n >= full_begin, full_length, 0)
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            ahead_n = start_n
            if PIPE:
                next_n = turn_n + BLOCK_N
                if segment == 0:
                    next_n = tl.where(turn_n + BLOCK_N < ends[0], next_n, masked_n)
                else:
                    next_n += tl.where(next_n >= full_begin, full_length, 0)
                ahead_n = next_n
            if not LATE:
                s_formed = forward_products(
                    k_rows,
                    k_stride_n,
                    q,
                    len_n,
                    range_n,
                    ahead_n,
                    BLOCK_N,
                    DIM_D,
                    TMA,
                    ACC,
                    segment == 0 and not PIPE,
                )
            s = s_next if PIPE else s_formed
            if segment != 0:
                until_n = tl.minimum(offs_m + 1, len_n)
                from_n = position(offs_m - wide(window) + 1, len_n)
                valid = below(range_n[None, :], (until_n - start_n)[:, None], EARLY)
                valid = valid & ~below(range_n[None, :], (from_n - start_n)[:, None], EARLY)
                s = tl.where(valid, s, float("-inf"))
            m_i_new = tl.maximum(m_i, tl.max(s, 1) * DIM_D**-0.5)
            if LATE:
                s_formed = forward_products(
                    k_rows, k_stride_n, q, len_n, range_n, ahead_n, BLOCK_N, DIM_D, TMA, ACC, False
                )
            if PIPE:
                s_next = s_formed
            m_i_safe = m_i_new
            if segment != 0:
                m_i_safe = finite(m_i_new, DTYPE)
            alpha = tl.exp2((m_i - m_i_safe) * LOG2E)
            acc = acc * alpha[:, None]
            w = exp_scaled(s, DIM_D**-0.5, m_i_safe[:, None], DTYPE)
            l_i = l_i * alpha + tl.sum(w, 1)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            acc = tl.dot(w.to(DTYPE), v, acc, input_precision="ieee", out_dtype=ACC)
            m_i = m_i_new
    # What is left to do after the last tile.
    lse = m_i + tl.log(l_i)
    o = safe_div(acc, l_i[:, None])
    o_start = o_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    o_ptrs = o_start + range_m[:, None] * DIM_E + offs_e[None, :]
    tl.store(o_ptrs, o.to(o_out.dtype.element_ty), mask=ok_m[:, None])
    lse_start = lse_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse_ptrs = lse_start + range_m
    tl.store(lse_ptrs, lse.to(lse_out.dtype.element_ty), mask=ok_m)


@triton.jit(
    do_not_specialize=[
        "dlse_stride_b",
        "dlse_stride_g",
        "dlse_stride_r",
        "len_b",
        "len_g",
        "len_r",
        "len_m",
    ],
)
def backward_prepare_kernel(
    lse_ptr,
    do_ptr,
    o_ptr,
    dlse_ptr,
    dl_i_out,
    lse_safe_out,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
    dlse_stride_b,
    dlse_stride_g,
    dlse_stride_r,
    dlse_stride_m,
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
    dl_i_part_sum[b,g,r,m] = sum[e] do[b,g,r,m,e] * o[b,g,r,m,e]
    dl_i_part[b,g,r,m] = -dl_i_part_sum[b,g,r,m]
    dl_i[b,g,r,m] = dlse[b,g,r,m] + dl_i_part[b,g,r,m]
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
    do_start = do_ptr + b * do_stride_b + g * do_stride_g + r * do_stride_r + start_m * do_stride_m
    do_ptrs = do_start + range_m[:, None] * do_stride_m + offs_e[None, :]
    do = tl.load(do_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    o_start = o_ptr + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    o_ptrs = o_start + range_m[:, None] * DIM_E + offs_e[None, :]
    o = tl.load(o_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    dl_i_part_sum = tl.sum(do.to(ACC) * o.to(ACC), 1)
    dl_i_part = -dl_i_part_sum
    dlse_start = dlse_ptr + b * dlse_stride_b + g * dlse_stride_g + r * dlse_stride_r
    dlse_start += start_m * dlse_stride_m
    dlse_ptrs = dlse_start + range_m * dlse_stride_m
    dlse = tl.load(dlse_ptrs, mask=ok_m, other=0).to(ACC)  # [BLOCK_M]
    dl_i = dlse + dl_i_part
    # What is left to do after the last tile.
    dl_i_start = dl_i_out + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i_ptrs = dl_i_start + range_m
    tl.store(dl_i_ptrs, dl_i.to(dl_i_out.dtype.element_ty), mask=ok_m)
    lse_safe_start = lse_safe_out + tl.cast(outer, tl.int64) * len_m + start_m
    lse_safe_ptrs = lse_safe_start + range_m
    tl.store(lse_safe_ptrs, lse_safe.to(lse_safe_out.dtype.element_ty), mask=ok_m)


@triton.jit(do_not_specialize=["window", "len_b", "len_g", "len_r", "len_m", "len_n"])
def backward_rows_kernel(
    q_ptr,
    k_ptr,
    do_ptr,
    lse_safe_ptr,
    v_ptr,
    dl_i_ptr,
    dq_out,
    window,
    q_stride_b,
    q_stride_g,
    q_stride_r,
    q_stride_m,
    k_stride_b,
    k_stride_g,
    k_stride_n,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
    v_stride_b,
    v_stride_g,
    v_stride_n,
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
    SILENT: tl.constexpr = False,
):
    """Rows stay, the streamed axis passes: gradients of what belongs to rows.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    w[b,g,r,m,n] = exp(s[b,g,r,m,n] * extent(d) ** -0.5 - lse_safe[b,g,r,m])  if m >= n and m - n <
        window
    dw_part[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]  if m >= n and m - n < window
    dw[b,g,r,m,n] = dl_i[b,g,r,m] + dw_part[b,g,r,m,n]  if m >= n and m - n < window
    dx[b,g,r,m,n] = dw[b,g,r,m,n] * w[b,g,r,m,n]  if m >= n and m - n < window
    dq_sum[b,g,r,m,d] = sum[n] dx[b,g,r,m,n] * k[b,g,n,d]
    dq[b,g,r,m,d] = dq_sum[b,g,r,m,d] * extent(d) ** -0.5
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(len_m, BLOCK_M)
    first_m = pid % tiles_m * BLOCK_M
    last_m = tl.minimum(first_m + BLOCK_M, len_m) - 1
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
    q_start = q_ptr + b * q_stride_b + g * q_stride_g + r * q_stride_r + start_m * q_stride_m
    q_ptrs = q_start + range_m[:, None] * q_stride_m + offs_d[None, :]
    q = tl.load(q_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k_base = k_ptr + b * k_stride_b + g * k_stride_g
    k_rows = tiled(k_base, len_n, k_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    do_start = do_ptr + b * do_stride_b + g * do_stride_g + r * do_stride_r + start_m * do_stride_m
    do_ptrs = do_start + range_m[:, None] * do_stride_m + offs_e[None, :]
    do = tl.load(do_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    if SILENT:
        lse_safe_start = lse_safe_ptr + tl.cast(outer, tl.int64) * len_m + start_m
        lse_safe_ptrs = lse_safe_start + range_m
        lse_safe = tl.load(lse_safe_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
        kept_m = lse_safe != float("inf")
        do = tl.where(kept_m[:, None], do, 0.0)
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    lse_safe_start = lse_safe_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    lse_safe_ptrs = lse_safe_start + range_m
    lse_safe = tl.load(lse_safe_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    dl_i_start = dl_i_ptr + tl.cast(outer, tl.int64) * len_m + start_m
    dl_i_ptrs = dl_i_start + range_m
    dl_i = tl.load(dl_i_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
    if SILENT:
        kept_m = lse_safe != float("inf")
        dl_i = tl.where(kept_m, dl_i, 0.0)
    begin, full_begin, full_length, end = forward_bounds(first_m, last_m, window, len_n, BLOCK_N)
    begins = (full_begin, begin)
    ends = (full_begin + full_length, end - full_length)
    # What it carries along.
    dq_sum = tl.zeros((BLOCK_M, DIM_D), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        for turn_n in range(begins[segment], ends[segment], BLOCK_N):
            start_n = turn_n
            if segment != 0:
                start_n += tl.where(start_n >= full_begin, full_length, 0)
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            k = fetch(k_rows, start_n, k_stride_n, ok_n[:, None], BLOCK_N, DIM_D, segment == 0, TMA)
            s = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=ACC)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            dw_part = tl.dot(do, tl.trans(v), input_precision="ieee", out_dtype=ACC)
            w = exp_scaled(s, DIM_D**-0.5, lse_safe[:, None], DTYPE)
            if segment != 0:
                until_n = tl.minimum(offs_m + 1, len_n)
                from_n = position(offs_m - wide(window) + 1, len_n)
                valid = range_n[None, :] < (until_n - start_n)[:, None]
                valid = valid & (range_n[None, :] >= (from_n - start_n)[:, None])
                w = tl.where(valid, w, 0.0)
            dw = dl_i[:, None] + dw_part
            dx = dw * w
            dq_sum = tl.dot(dx.to(DTYPE), k, dq_sum, input_precision="ieee", out_dtype=ACC)
    # What is left to do after the last tile.
    dq = dq_sum * DIM_D**-0.5
    dq_start = dq_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_D
    dq_ptrs = dq_start + range_m[:, None] * DIM_D + offs_d[None, :]
    tl.store(dq_ptrs, dq.to(dq_out.dtype.element_ty), mask=ok_m[:, None])


@triton.jit
def backward_columns_bounds(first_n, last_n, window, len_m, BLOCK_M: tl.constexpr):
    """Which tiles along m a tile along n meets.

    It visits m in [first, min(extent(m), last + window)), unmasked in [last, min(extent(m), first +
        window)).
    """
    window = wide(window)
    begin = first_n // BLOCK_M * BLOCK_M
    end = position(last_n + window, len_m)
    full_begin = tl.maximum(tl.cdiv(last_n, BLOCK_M) * BLOCK_M, begin)
    full_length = tl.maximum(position(first_n + window, len_m) // BLOCK_M * BLOCK_M - full_begin, 0)
    return begin, full_begin, full_length, end


@triton.jit(do_not_specialize=["window", "len_b", "len_g", "len_r", "len_n", "len_m"])
def backward_columns_kernel(
    k_ptr,
    q_ptr,
    v_ptr,
    do_ptr,
    lse_safe_ptr,
    dl_i_ptr,
    dk_out,
    dv_out,
    window,
    k_stride_b,
    k_stride_g,
    k_stride_n,
    q_stride_b,
    q_stride_g,
    q_stride_r,
    q_stride_m,
    v_stride_b,
    v_stride_g,
    v_stride_n,
    do_stride_b,
    do_stride_g,
    do_stride_r,
    do_stride_m,
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
    SILENT: tl.constexpr = False,
):
    """The streamed axis stays, rows pass: gradients of what belongs to it.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    w[b,g,r,m,n] = exp(s[b,g,r,m,n] * extent(d) ** -0.5 - lse_safe[b,g,r,m])  if m >= n and m - n <
        window
    dw_part[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]  if m >= n and m - n < window
    dw[b,g,r,m,n] = dl_i[b,g,r,m] + dw_part[b,g,r,m,n]  if m >= n and m - n < window
    dx[b,g,r,m,n] = dw[b,g,r,m,n] * w[b,g,r,m,n]  if m >= n and m - n < window
    dk_sum[b,g,n,d] = sum[r,m] dx[b,g,r,m,n] * q[b,g,r,m,d]
    dk[b,g,n,d] = dk_sum[b,g,n,d] * extent(d) ** -0.5
    dv[b,g,n,e] = sum[r,m] do[b,g,r,m,e] * w[b,g,r,m,n]  if m >= n and m - n < window
    """
    # The tile of this program.
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(len_n, BLOCK_N)
    first_n = pid % tiles_n * BLOCK_N
    last_n = tl.minimum(first_n + BLOCK_N, len_n) - 1
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
    k_start = k_ptr + b * k_stride_b + g * k_stride_g + start_n * k_stride_n
    k_ptrs = k_start + range_n[:, None] * k_stride_n + offs_d[None, :]
    k = tl.load(k_ptrs, mask=ok_n[:, None], other=0)  # [BLOCK_N, DIM_D]
    q_base = q_ptr + b * q_stride_b + g * q_stride_g
    q_rows = tiled_heads(q_base, len_r, q_stride_r, len_m, q_stride_m, DIM_D, BLOCK_M, DIM_D, TMA)
    v_start = v_ptr + b * v_stride_b + g * v_stride_g + start_n * v_stride_n
    v_ptrs = v_start + range_n[:, None] * v_stride_n + offs_e[None, :]
    v = tl.load(v_ptrs, mask=ok_n[:, None], other=0)  # [BLOCK_N, DIM_E]
    do_base = do_ptr + b * do_stride_b + g * do_stride_g
    do_rows = tiled_heads(
        do_base, len_r, do_stride_r, len_m, do_stride_m, DIM_E, BLOCK_M, DIM_E, TMA
    )
    begin, full_begin, full_length, end = backward_columns_bounds(
        first_n, last_n, window, len_m, BLOCK_M
    )
    begins = (full_begin, begin)
    ends = (full_begin + full_length, end - full_length)
    # What it carries along.
    dv = tl.zeros((BLOCK_N, DIM_E), ACC)
    dk_sum = tl.zeros((BLOCK_N, DIM_D), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        steps = tl.cdiv(ends[segment] - begins[segment], BLOCK_M)
        for item in range(len_r * steps):
            r = tl.cast(item // steps, tl.int64)
            turn_m = begins[segment] + item % steps * BLOCK_M
            start_m = turn_m
            if segment != 0:
                start_m += tl.where(start_m >= full_begin, full_length, 0)
            offs_m = start_m + range_m
            ok_m = offs_m < len_m
            q = fetch_head(
                q_rows,
                r,
                q_stride_r,
                start_m,
                q_stride_m,
                ok_m[:, None],
                BLOCK_M,
                DIM_D,
                segment == 0,
                TMA,
            )
            s = tl.dot(k, tl.trans(q), input_precision="ieee", out_dtype=ACC)
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
            if segment != 0 and SILENT:
                lse_safe_start = lse_safe_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
                lse_safe_start += tl.cast(start_m, tl.int64)
                lse_safe_ptrs = lse_safe_start + range_m
                lse_safe = tl.load(lse_safe_ptrs, mask=ok_m, other=0)  # [BLOCK_M]
                kept_m = lse_safe != float("inf")
                do = tl.where(kept_m[:, None], do, 0.0)
            dw_part = tl.dot(v, tl.trans(do), input_precision="ieee", out_dtype=ACC)
            lse_safe_start = lse_safe_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            lse_safe_start += tl.cast(start_m, tl.int64)
            lse_safe_ptrs = lse_safe_start + range_m
            lse_safe = load(lse_safe_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            w = exp_scaled(s, DIM_D**-0.5, lse_safe[None, :], DTYPE)
            if segment != 0:
                until_m = position(offs_n + wide(window), len_m)
                valid = range_m[None, :] < (until_m - start_m)[:, None]
                valid = valid & (range_m[None, :] >= (offs_n - start_m)[:, None])
                w = tl.where(valid, w, 0.0)
            dl_i_start = dl_i_ptr + (tl.cast(outer, tl.int64) * len_r + r) * len_m
            dl_i_start += tl.cast(start_m, tl.int64)
            dl_i_ptrs = dl_i_start + range_m
            dl_i = load(dl_i_ptrs, ok_m, segment == 0)  # [BLOCK_M]
            if segment != 0 and SILENT:
                kept_m = lse_safe != float("inf")
                dl_i = tl.where(kept_m, dl_i, 0.0)
            dw = dl_i[None, :] + dw_part
            dx = dw * w
            dv = tl.dot(w.to(DTYPE), do, dv, input_precision="ieee", out_dtype=ACC)
            dk_sum = tl.dot(dx.to(DTYPE), q, dk_sum, input_precision="ieee", out_dtype=ACC)
    # What is left to do after the last tile.
    dk = dk_sum * DIM_D**-0.5
    dk_start = dk_out + (tl.cast(outer, tl.int64) * len_n + start_n) * DIM_D
    dk_ptrs = dk_start + range_n[:, None] * DIM_D + offs_d[None, :]
    tl.store(dk_ptrs, dk.to(dk_out.dtype.element_ty), mask=ok_n[:, None])
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


def forward(q, k, v, window, tiles):
    """Returns o, lse.

    Tensors have the axes of the cascade as dimensions, so heads are split; features are contiguous.
    `tiles` has the blocks, warps and stages of each kernel by its role.
    """
    k = near(k, tiles, 2)
    q = near(q, tiles, 3)
    v = near(v, tiles, 2)
    len_b = q.shape[0]
    len_g = q.shape[1]
    len_r = q.shape[2]
    len_m = q.shape[3]
    len_d = q.shape[4]
    len_n = k.shape[2]
    len_e = v.shape[3]
    accumulator = torch.float64 if q.dtype == torch.float64 else torch.float32
    tile = described(tiles["forward"], k, v)
    o = torch.empty((len_b, len_g, len_r, len_m, len_e), dtype=q.dtype, device=q.device)
    lse = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q.device)
    args = (
        q,
        k,
        v,
        o,
        lse,
        window,
        q.stride(0),
        q.stride(1),
        q.stride(2),
        q.stride(3),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        v.stride(0),
        v.stride(1),
        v.stride(2),
        len_b,
        len_g,
        len_r,
        len_m,
        len_n,
    )
    constants = {"DIM_D": len_d, "DIM_E": len_e, "DTYPE": TYPES[q.dtype], "ACC": TYPES[accumulator]}
    programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
    launch(forward_kernel, programs, args, constants, tile)
    return o, lse


def backward(q, k, v, window, o, lse, do, dlse, tiles, needed):
    """Gradients of the inputs named in `needed`, by name."""
    dlse = near(dlse, tiles, 3)
    do = near(do, tiles, 3)
    k = near(k, tiles, 2)
    q = near(q, tiles, 3)
    v = near(v, tiles, 2)
    len_b = q.shape[0]
    len_g = q.shape[1]
    len_r = q.shape[2]
    len_m = q.shape[3]
    len_d = q.shape[4]
    len_n = k.shape[2]
    len_e = v.shape[3]
    accumulator = torch.float64 if q.dtype == torch.float64 else torch.float32
    if needed & {"k", "q", "v"}:
        tile = tiles["backward_prepare"]
        dl_i = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q.device)
        lse_safe = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q.device)
        args = (
            lse,
            do,
            o,
            dlse,
            dl_i,
            lse_safe,
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            dlse.stride(0),
            dlse.stride(1),
            dlse.stride(2),
            dlse.stride(3),
            len_b,
            len_g,
            len_r,
            len_m,
        )
        constants = {"DIM_E": len_e, "DTYPE": TYPES[q.dtype], "ACC": TYPES[accumulator]}
        programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
        launch(backward_prepare_kernel, programs, args, constants, tile)
    if needed & {"q"}:
        tile = described(tiles["backward_rows"], k, v)
        dq = torch.empty((len_b, len_g, len_r, len_m, len_d), dtype=q.dtype, device=q.device)
        args = (
            q,
            k,
            do,
            lse_safe,
            v,
            dl_i,
            dq,
            window,
            q.stride(0),
            q.stride(1),
            q.stride(2),
            q.stride(3),
            k.stride(0),
            k.stride(1),
            k.stride(2),
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            v.stride(0),
            v.stride(1),
            v.stride(2),
            len_b,
            len_g,
            len_r,
            len_m,
            len_n,
        )
        constants = {
            "DIM_D": len_d,
            "DIM_E": len_e,
            "DTYPE": TYPES[q.dtype],
            "ACC": TYPES[accumulator],
            "SILENT": not (len_m <= len_n and 0 < window),
        }
        programs = triton.cdiv(len_m, tile["BLOCK_M"]) * len_b * len_g * len_r
        launch(backward_rows_kernel, programs, args, constants, tile)
    if needed & {"k", "v"}:
        tile = described(tiles["backward_columns"], q, do)
        dk = torch.empty((len_b, len_g, len_n, len_d), dtype=q.dtype, device=q.device)
        dv = torch.empty((len_b, len_g, len_n, len_e), dtype=q.dtype, device=q.device)
        args = (
            k,
            q,
            v,
            do,
            lse_safe,
            dl_i,
            dk,
            dv,
            window,
            k.stride(0),
            k.stride(1),
            k.stride(2),
            q.stride(0),
            q.stride(1),
            q.stride(2),
            q.stride(3),
            v.stride(0),
            v.stride(1),
            v.stride(2),
            do.stride(0),
            do.stride(1),
            do.stride(2),
            do.stride(3),
            len_b,
            len_g,
            len_r,
            len_n,
            len_m,
        )
        constants = {
            "DIM_D": len_d,
            "DIM_E": len_e,
            "DTYPE": TYPES[q.dtype],
            "ACC": TYPES[accumulator],
            "SILENT": not (len_m <= len_n and 0 < window),
        }
        programs = triton.cdiv(len_n, tile["BLOCK_N"]) * len_b * len_g
        launch(backward_columns_kernel, programs, args, constants, tile)
    gradients = {}
    if "q" in needed:
        gradients["q"] = dq.to(q.dtype)
    if "k" in needed:
        gradients["k"] = dk.to(k.dtype)
    if "v" in needed:
        gradients["v"] = dv.to(v.dtype)
    return gradients

"""Attention variant `sigmoid`: fused forward and backward.

Emitted by attngen 0.1.0; needs torch and triton only.

cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]; bias: float[])
  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
  x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5 + bias
  p[b,g,r,m,n] = sigmoid(x[b,g,r,m,n])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
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
def load(pointers, ok, FULL: tl.constexpr):
    """A tile; positions that are not `ok` read as 0. FULL promises that all are."""
    if FULL:
        value = tl.load(pointers)
    else:
        value = tl.load(pointers, mask=ok, other=0)
    return value


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


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


@triton.jit(do_not_specialize=["len_b", "len_g", "len_r", "len_m", "len_n"])
def forward_kernel(
    q_ptr,
    k_ptr,
    bias_ptr,
    v_ptr,
    o_out,
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
    TMA: tl.constexpr = False,
):
    """Rows stay, the streamed axis passes: outputs and row statistics.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5 + bias
    p[b,g,r,m,n] = sigmoid(x[b,g,r,m,n])
    o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
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
    q_start = q_ptr + b * q_stride_b + g * q_stride_g + r * q_stride_r + start_m * q_stride_m
    q_ptrs = q_start + range_m[:, None] * q_stride_m + offs_d[None, :]
    q = tl.load(q_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k_base = k_ptr + b * k_stride_b + g * k_stride_g
    k_rows = tiled(k_base, len_n, k_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    bias_at = tl.load(bias_ptr).to(ACC)
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    begin = 0
    end = len_n
    full_end = tl.maximum(len_n // BLOCK_N * BLOCK_N, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    o = tl.zeros((BLOCK_M, DIM_E), ACC)
    if PIPE:  # the first tile
        s_next = forward_products(
            k_rows, k_stride_n, q, len_n, range_n, begins[0], BLOCK_N, DIM_D, TMA, ACC, False
        )
    for segment in tl.static_range(2):  # full, then under masks
        for start_n in range(begins[segment], ends[segment], BLOCK_N):
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            ahead_n = start_n
            if PIPE:
                ahead_n = start_n + BLOCK_N
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
            if PIPE:
                s_next = s_formed
            x = s * DIM_D**-0.5 + bias_at
            p = sigmoid(x)
            if segment != 0:
                valid = ok_n[None, :]
                p = tl.where(valid, p, 0.0)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            o = tl.dot(p.to(DTYPE), v, o, input_precision="ieee", out_dtype=ACC)
    # What is left to do after the last tile.
    o_start = o_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_E
    o_ptrs = o_start + range_m[:, None] * DIM_E + offs_e[None, :]
    tl.store(o_ptrs, o.to(o_out.dtype.element_ty), mask=ok_m[:, None])


@triton.jit(do_not_specialize=["len_b", "len_g", "len_r", "len_m", "len_n"])
def backward_rows_kernel(
    q_ptr,
    k_ptr,
    do_ptr,
    v_ptr,
    bias_ptr,
    dq_out,
    dbias_out,
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
):
    """Rows stay, the streamed axis passes: gradients of what belongs to rows.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5 + bias
    p[b,g,r,m,n] = sigmoid(x[b,g,r,m,n])
    dp[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]
    dx[b,g,r,m,n] = dp[b,g,r,m,n] * (p[b,g,r,m,n] * (1.0 - p[b,g,r,m,n]))
    dq_sum[b,g,r,m,d] = sum[n] dx[b,g,r,m,n] * k[b,g,n,d]
    dq[b,g,r,m,d] = dq_sum[b,g,r,m,d] * extent(d) ** -0.5
    dbias[b,g,r,m] = sum[n] dx[b,g,r,m,n]
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
    q_start = q_ptr + b * q_stride_b + g * q_stride_g + r * q_stride_r + start_m * q_stride_m
    q_ptrs = q_start + range_m[:, None] * q_stride_m + offs_d[None, :]
    q = tl.load(q_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_D]
    k_base = k_ptr + b * k_stride_b + g * k_stride_g
    k_rows = tiled(k_base, len_n, k_stride_n, DIM_D, BLOCK_N, DIM_D, TMA)
    do_start = do_ptr + b * do_stride_b + g * do_stride_g + r * do_stride_r + start_m * do_stride_m
    do_ptrs = do_start + range_m[:, None] * do_stride_m + offs_e[None, :]
    do = tl.load(do_ptrs, mask=ok_m[:, None], other=0)  # [BLOCK_M, DIM_E]
    v_base = v_ptr + b * v_stride_b + g * v_stride_g
    v_rows = tiled(v_base, len_n, v_stride_n, DIM_E, BLOCK_N, DIM_E, TMA)
    bias_at = tl.load(bias_ptr).to(ACC)
    begin = 0
    end = len_n
    full_end = tl.maximum(len_n // BLOCK_N * BLOCK_N, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    dq_sum = tl.zeros((BLOCK_M, DIM_D), ACC)
    dbias = tl.zeros((BLOCK_M,), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        for start_n in range(begins[segment], ends[segment], BLOCK_N):
            offs_n = start_n + range_n
            ok_n = offs_n < len_n
            k = fetch(k_rows, start_n, k_stride_n, ok_n[:, None], BLOCK_N, DIM_D, segment == 0, TMA)
            s = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=ACC)
            v = fetch(v_rows, start_n, v_stride_n, ok_n[:, None], BLOCK_N, DIM_E, segment == 0, TMA)
            dp = tl.dot(do, tl.trans(v), input_precision="ieee", out_dtype=ACC)
            x = s * DIM_D**-0.5 + bias_at
            p = sigmoid(x)
            dx = dp * (p * (1.0 - p))
            if segment != 0:
                valid = ok_n[None, :]
                dx = tl.where(valid, dx, 0.0)
            dq_sum = tl.dot(dx.to(DTYPE), k, dq_sum, input_precision="ieee", out_dtype=ACC)
            dbias = dbias + tl.sum(dx, 1)
    # What is left to do after the last tile.
    dq = dq_sum * DIM_D**-0.5
    dq_start = dq_out + (tl.cast(outer, tl.int64) * len_m + start_m) * DIM_D
    dq_ptrs = dq_start + range_m[:, None] * DIM_D + offs_d[None, :]
    tl.store(dq_ptrs, dq.to(dq_out.dtype.element_ty), mask=ok_m[:, None])
    dbias_start = dbias_out + tl.cast(outer, tl.int64) * len_m + start_m
    dbias_ptrs = dbias_start + range_m
    tl.store(dbias_ptrs, dbias.to(dbias_out.dtype.element_ty), mask=ok_m)


@triton.jit(do_not_specialize=["len_b", "len_g", "len_r", "len_n", "len_m"])
def backward_columns_kernel(
    k_ptr,
    q_ptr,
    v_ptr,
    do_ptr,
    bias_ptr,
    dk_out,
    dv_out,
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
):
    """The streamed axis stays, rows pass: gradients of what belongs to it.

    s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]
    x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5 + bias
    p[b,g,r,m,n] = sigmoid(x[b,g,r,m,n])
    dp[b,g,r,m,n] = sum[e] do[b,g,r,m,e] * v[b,g,n,e]
    dx[b,g,r,m,n] = dp[b,g,r,m,n] * (p[b,g,r,m,n] * (1.0 - p[b,g,r,m,n]))
    dk_sum[b,g,n,d] = sum[r,m] dx[b,g,r,m,n] * q[b,g,r,m,d]
    dk[b,g,n,d] = dk_sum[b,g,n,d] * extent(d) ** -0.5
    dv[b,g,n,e] = sum[r,m] do[b,g,r,m,e] * p[b,g,r,m,n]
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
    bias_at = tl.load(bias_ptr).to(ACC)
    begin = 0
    end = len_m
    full_end = tl.maximum(len_m // BLOCK_M * BLOCK_M, begin)
    begins = (begin, full_end)
    ends = (full_end, end)
    # What it carries along.
    dv = tl.zeros((BLOCK_N, DIM_E), ACC)
    dk_sum = tl.zeros((BLOCK_N, DIM_D), ACC)
    for segment in tl.static_range(2):  # full, then under masks
        steps = tl.cdiv(ends[segment] - begins[segment], BLOCK_M)
        for item in range(len_r * steps):
            r = tl.cast(item // steps, tl.int64)
            start_m = begins[segment] + item % steps * BLOCK_M
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
            dp = tl.dot(v, tl.trans(do), input_precision="ieee", out_dtype=ACC)
            x = s * DIM_D**-0.5 + bias_at
            p = sigmoid(x)
            dx = dp * (p * (1.0 - p))
            if segment != 0:
                valid = ok_m[None, :]
                p = tl.where(valid, p, 0.0)
            dv = tl.dot(p.to(DTYPE), do, dv, input_precision="ieee", out_dtype=ACC)
            if segment != 0:
                dx = tl.where(valid, dx, 0.0)
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


def forward(q, k, v, bias, tiles):
    """Returns o.

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
    args = (
        q,
        k,
        bias,
        v,
        o,
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
    return o


def backward(q, k, v, bias, do, tiles, needed):
    """Gradients of the inputs named in `needed`, by name."""
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
    if needed & {"bias", "q"}:
        tile = described(tiles["backward_rows"], k, v)
        dq = torch.empty((len_b, len_g, len_r, len_m, len_d), dtype=q.dtype, device=q.device)
        dbias = torch.empty((len_b, len_g, len_r, len_m), dtype=accumulator, device=q.device)
        args = (
            q,
            k,
            do,
            v,
            bias,
            dq,
            dbias,
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
            bias,
            dk,
            dv,
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
    if "bias" in needed:
        dbias = dbias.sum((0, 1, 2, 3))
        gradients["bias"] = dbias.to(bias.dtype)
    return gradients

"""A module as the compiler would emit it for sm90: causal attention whose loader and consumers are different warps."""

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def rescaled(m_i, m_new):
    """Finite stand-in for the new maximum, and the factor of what was summed under the old one."""
    safe = tl.where(m_new == float("-inf"), 0.0, m_new)
    return safe, tl.exp2((m_i - safe) * LOG2E)


@gluon.jit
def put(rows, start, ring, ready, free, turn, STAGES: gl.constexpr):
    slot = turn % STAGES
    mbarrier.wait(free.index(slot), turn // STAGES & 1 ^ 1)
    mbarrier.expect(ready.index(slot), rows.block_type.nbytes)
    tma.async_copy_global_to_shared(rows, [start, 0], ready.index(slot), ring.index(slot))


@gluon.jit
def take(ring, ready, turn, STAGES: gl.constexpr):
    slot = turn % STAGES
    mbarrier.wait(ready.index(slot), turn // STAGES & 1)
    return ring.index(slot)


@gluon.jit
def give(free, turn, STAGES: gl.constexpr):
    mbarrier.arrive(free.index(turn % STAGES), count=1)


@gluon.jit
def loader(k_rows, v_rows, k_ring, v_ring, k_ready, k_free, v_ready, v_free, end, BLOCK_N: gl.constexpr, STAGES: gl.constexpr):
    turn = 0
    put(k_rows, 0, k_ring, k_ready, k_free, turn, STAGES)
    for start_n in range(0, end, BLOCK_N):
        put(k_rows, start_n + BLOCK_N, k_ring, k_ready, k_free, turn + 1, STAGES)
        put(v_rows, start_n, v_ring, v_ready, v_free, turn, STAGES)
        turn += 1


@gluon.jit
def consumer(
    q_start, o_start, lse_start, q_tile, k_ring, v_ring, k_ready, k_free, v_ready, v_free, first_m, length, end, scale,
    DIM: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])  # noqa: E741
    rows = first_m + gl.arange(0, BLOCK_M)
    offs_d = gl.arange(0, DIM)
    offsets = rows[:, None] * DIM + offs_d[None, :]
    inside = (rows < length)[:, None] & (offs_d < DIM)[None, :]
    q = gl.load(gl.set_auto_layout(q_start + offsets, O), mask=gl.set_auto_layout(inside, O), other=0.0)
    q_tile.store(q)
    fence_async_shared()
    m_i = gl.full((BLOCK_M,), float("-inf"), gl.float32, gl.SliceLayout(1, S))
    l_i = gl.zeros((BLOCK_M,), gl.float32, gl.SliceLayout(1, S))
    acc = gl.zeros((BLOCK_M, DIM), gl.float32, O)
    offs_m = first_m + gl.arange(0, BLOCK_M)
    zero = gl.zeros((BLOCK_M, BLOCK_N), gl.float32, S)
    turn = 0
    k = take(k_ring, k_ready, turn, STAGES)
    s_next = warpgroup_mma(q_tile, k.permute((1, 0)), zero, use_acc=False)
    give(k_free, turn, STAGES)
    for start_n in range(0, end, BLOCK_N):
        k = take(k_ring, k_ready, turn + 1, STAGES)
        s_token = warpgroup_mma(q_tile, k.permute((1, 0)), zero, use_acc=False, is_async=True)
        offs_n = start_n + gl.arange(0, BLOCK_N)
        s = tl.where(offs_n[None, :] <= tl.minimum(offs_m, length - 1)[:, None], s_next, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(s, 1) * scale)
        m_safe, alpha = rescaled(m_i, m_new)
        w = tl.exp2((s * scale - m_safe[:, None]) * LOG2E)
        l_i = l_i * alpha + tl.sum(w, 1)
        m_i = m_new
        acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
        a = gl.convert_layout(w.to(q_tile.dtype), gl.DotOperandLayout(0, O, 2))
        v = take(v_ring, v_ready, turn, STAGES)
        acc_token = warpgroup_mma(a, v, acc, is_async=True)
        s_next = warpgroup_mma_wait(1, (s_token,))
        give(k_free, turn + 1, STAGES)
        acc = warpgroup_mma_wait(0, (acc_token,))
        give(v_free, turn, STAGES)
        turn += 1
    o = acc / gl.convert_layout(l_i, gl.SliceLayout(1, O))[:, None]
    tl.store(gl.set_auto_layout(o_start + offsets, O), o.to(q_tile.dtype), mask=gl.set_auto_layout(inside, O))
    lse = m_i + tl.log(l_i)
    tl.store(lse_start + offs_m, lse, mask=offs_m < length)


@gluon.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, length, scale,
    DIM: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, DTYPE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(length, BLOCK_M)
    first_m = gl.program_id(0) % tiles * BLOCK_M
    head = gl.program_id(0) // tiles
    end = tl.minimum(first_m + BLOCK_M, length)
    start = tl.cast(head, tl.int64) * length
    HALF: gl.constexpr = BLOCK_M // 2
    LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_N, DIM], DTYPE)
    k_rows = tma.make_tensor_descriptor(k_ptr + start * DIM, [length, DIM], [DIM, 1], [BLOCK_N, DIM], LAYOUT)
    v_rows = tma.make_tensor_descriptor(v_ptr + start * DIM, [length, DIM], [DIM, 1], [BLOCK_N, DIM], LAYOUT)
    q_tiles = gl.allocate_shared_memory(DTYPE, [2, HALF, DIM], gl.NVMMASharedLayout.get_default_for([HALF, DIM], DTYPE))
    k_ring = gl.allocate_shared_memory(DTYPE, [STAGES, BLOCK_N, DIM], LAYOUT)
    v_ring = gl.allocate_shared_memory(DTYPE, [STAGES, BLOCK_N, DIM], LAYOUT)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(slot), count=1)
        mbarrier.init(v_ready.index(slot), count=1)
        mbarrier.init(k_free.index(slot), count=2)
        mbarrier.init(v_free.index(slot), count=2)
    fence_async_shared()
    rows = (q_ptr + start * DIM, o_ptr + start * DIM, lse_ptr + start)
    rings = (k_ring, v_ring, k_ready, k_free, v_ready, v_free)
    gl.warp_specialize(
        [
            (
                consumer,
                (rows[0], rows[1], rows[2], q_tiles.index(0), rings[0], rings[1], rings[2], rings[3], rings[4], rings[5],
                 first_m, length, end, scale, DIM, HALF, BLOCK_N, STAGES),
            ),
            (
                consumer,
                (rows[0], rows[1], rows[2], q_tiles.index(1), rings[0], rings[1], rings[2], rings[3], rings[4], rings[5],
                 first_m + HALF, length, end, scale, DIM, HALF, BLOCK_N, STAGES),
            ),
            (loader, (k_rows, v_rows, k_ring, v_ring, k_ready, k_free, v_ready, v_free, end, BLOCK_N, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def attention(q, k, v, block_m=128, block_n=64, stages=2):
    """o and lse for q, k and v [H, N, D]."""
    heads, length, dim = q.shape
    o = torch.full_like(q, float("nan"))
    lse = torch.full((heads, length), float("nan"))
    forward_kernel[(heads * triton.cdiv(length, block_m),)](
        q, k, v, o, lse, length, dim**-0.5,
        DIM=dim, BLOCK_M=block_m, BLOCK_N=block_n, DTYPE=tl.float16 if q.dtype == torch.float16 else tl.bfloat16, STAGES=stages,
        num_warps=4,
    )  # fmt: skip
    return o, lse

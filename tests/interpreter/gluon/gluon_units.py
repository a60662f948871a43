"""Small Gluon kernels that use one feature each, and one of Triton's own."""

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait


@gluon.jit
def move_kernel(x_ptr, y_ptr, first, extent, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """y[1, first:] = x[0, first:] in one block, of which part lies outside."""
    LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, ROWS, COLUMNS], x_ptr.dtype.element_ty)
    x = tma.make_tensor_descriptor(x_ptr, [2, extent, COLUMNS], [extent * COLUMNS, COLUMNS, 1], [1, ROWS, COLUMNS], LAYOUT)
    y = tma.make_tensor_descriptor(y_ptr, [2, extent, COLUMNS], [extent * COLUMNS, COLUMNS, 1], [1, ROWS, COLUMNS], LAYOUT)
    tile = gl.allocate_shared_memory(x.dtype, x.block_shape, x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    mbarrier.expect(ready, x.block_type.nbytes)
    tma.async_copy_global_to_shared(x, [0, first, 0], ready, tile)
    mbarrier.wait(ready, 0)
    mbarrier.invalidate(ready)
    tma.async_copy_shared_to_global(y, [1, first, 0], tile)
    tma.store_wait(0)


@gluon.jit
def chain_kernel(a_ptr, b_ptr, out_ptr, K: gl.constexpr, N: gl.constexpr, WAITS: gl.constexpr):
    """out = a @ b with a [64, 2 K] and b [2 K, N], as two products in flight of which the second goes on from the first."""
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    rows = gl.arange(0, 64)
    columns = gl.arange(0, N)
    a_value = gl.load(gl.set_auto_layout(a_ptr + rows[:, None] * (2 * K) + gl.arange(0, 2 * K)[None, :], ACC))
    b_value = gl.load(gl.set_auto_layout(b_ptr + gl.arange(0, 2 * K)[:, None] * N + columns[None, :], ACC))
    dtype: gl.constexpr = a_ptr.dtype.element_ty
    a = gl.allocate_shared_memory(dtype, [64, 2 * K], gl.NVMMASharedLayout.get_default_for([64, 2 * K], dtype), a_value)
    b = gl.allocate_shared_memory(dtype, [2 * K, N], gl.NVMMASharedLayout.get_default_for([2 * K, N], dtype), b_value)
    fence_async_shared()
    acc = gl.zeros((64, N), gl.float32, ACC)
    first = warpgroup_mma(a.slice(0, K, dim=1), b.slice(0, K, dim=0), acc, is_async=True)
    second = warpgroup_mma(a.slice(K, K, dim=1), b.slice(K, K, dim=0), first, is_async=True)
    for count in gl.static_range(WAITS):
        second = warpgroup_mma_wait(WAITS - 1 - count, (second,))
    tl.store(gl.set_auto_layout(out_ptr + rows[:, None] * N + columns[None, :], ACC), second)


@triton.jit
def dot_kernel(a_ptr, b_ptr, out_ptr, K: tl.constexpr, N: tl.constexpr):
    rows = tl.arange(0, 64)
    columns = tl.arange(0, N)
    acc = tl.zeros((64, N), tl.float32)
    for half in tl.static_range(2):
        inner = half * K + tl.arange(0, K)
        a = tl.load(a_ptr + rows[:, None] * (2 * K) + inner[None, :])
        b = tl.load(b_ptr + inner[:, None] * N + columns[None, :])
        acc = tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)
    tl.store(out_ptr + rows[:, None] * N + columns[None, :], acc)


@gluon.jit
def half_sum(x, other, SIZE: gl.constexpr):
    other.store(x)
    return (x + 1.0, gl.sum(x, 0))


@gluon.jit
def idle(other, SIZE: gl.constexpr):
    gl.thread_barrier()


@gluon.jit
def results_kernel(x_ptr, out_ptr, SIZE: gl.constexpr):
    """What the first partition returns and stores is there after all have ended."""
    FLAT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    offs = gl.arange(0, SIZE, FLAT)
    x = gl.load(x_ptr + offs)
    other = gl.allocate_shared_memory(gl.float32, [SIZE], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    more, total = gl.warp_specialize([(half_sum, (x, other, SIZE)), (idle, (other, SIZE))], [1], [24])
    tl.store(out_ptr + offs, more + total + other.load(FLAT))


@gluon.jit
def garbage_kernel(out_ptr, SIZE: gl.constexpr):
    nobody_wrote = gl.allocate_shared_memory(out_ptr.dtype.element_ty, [SIZE], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    FLAT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    tl.store(out_ptr + gl.arange(0, SIZE, FLAT), nobody_wrote.load(FLAT))


@gluon.jit
def ranks_kernel(out_ptr, SIZE: gl.constexpr):
    offs = gl.arange(0, SIZE)
    tl.store(out_ptr + offs, (offs[:, None] + offs) * 1.0)


@gluon.jit
def layout_kernel(out_ptr, SIZE: gl.constexpr):
    tl.store(out_ptr + gl.arange(0, SIZE, gl.BlockedLayout([1, 1], [32, 1], [4, 1], [1, 0])), 0.0)


def pair(dtype, k=32, n=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 2 * k, generator=generator).to(dtype), torch.randn(2 * k, n, generator=generator).to(dtype)

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

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

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

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

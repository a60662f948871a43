@triton.jit
def fetch_vector(vector, start, ok, BLOCK: tl.constexpr, TMA: tl.constexpr):
    """BLOCK elements from `start` on; what is not `ok` reads as 0."""
    if TMA:
        tile = vector.load([tl.cast(start, tl.int32)])
    else:
        pointers = vector + tl.cast(start, tl.int64) + tl.arange(0, BLOCK)
        tile = tl.load(pointers, mask=ok, other=0)
    return tile

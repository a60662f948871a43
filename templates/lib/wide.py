@triton.jit
def wide(number):
    """A captured integer with room for sums and products; beyond 2**40 all are alike to a mask."""
    return tl.minimum(tl.maximum(tl.cast(number, tl.int64), -(2**40)), 2**40)

@triton.jit
def position(bound, length):
    """A bound within its axis, in 32 bits again."""
    return tl.cast(tl.minimum(tl.maximum(bound, 0), length), tl.int32)

@triton.jit
def integer(value):
    """Integers of 32 bits at least, with room for positions."""
    if value.dtype.primitive_bitwidth < 32:
        value = tl.cast(value, tl.int32)
    return value

@triton.jit
def floor_div(a, b):
    """Rounds towards minus infinity, as Python does."""
    quotient = a // b
    return quotient - (((a % b) != 0) & ((a < 0) != (b < 0))).to(tl.int32)

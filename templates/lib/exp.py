@triton.jit
def exp(x):
    """e to the power of x, in base 2: what would be subnormal is 0."""
    return tl.exp2(x * LOG2E)

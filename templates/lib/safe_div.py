@triton.jit
def safe_div(a, b):
    """a / b, and 0 where b is 0."""
    return tl.where(b == 0.0, 0.0, a / tl.where(b == 0.0, 1.0, b))

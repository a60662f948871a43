@triton.jit
def tanh_small(x, DTYPE: tl.constexpr):
    """tanh with all digits of small arguments at half precision, too."""
    y = tanh(x, DTYPE)
    if DTYPE.primitive_bitwidth == 16:
        y = tl.where(tl.abs(x) < 0.02, x - x * x * x * (1 / 3), y)
    return y

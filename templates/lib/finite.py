@triton.jit
def finite(x, DTYPE: tl.constexpr):
    """x, or 0 where nothing is above it: at -inf, at half precision near the end of fp32."""
    if DTYPE.primitive_bitwidth == 16:
        nothing = x < -2.0e38
    else:
        nothing = x == float("-inf")
    return tl.where(nothing, 0.0, x)

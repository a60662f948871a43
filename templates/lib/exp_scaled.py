@triton.jit
def exp_scaled(x, scale, floor, DTYPE: tl.constexpr):
    """exp(x * scale - floor), with the product and the difference in one rounding."""
    if DTYPE.primitive_bitwidth == 16:
        power = tl.fma(x, tl.cast(scale * LOG2E, x.dtype), -(floor * LOG2E))
    else:
        power = tl.fma(x, tl.full((), scale, x.dtype), -floor) * LOG2E
    return tl.exp2(power)

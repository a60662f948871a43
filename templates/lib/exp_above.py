@triton.jit
def exp_above(x, floor, DTYPE: tl.constexpr):
    """exp(x - floor): one fused multiply-add at half precision, above it an exact difference."""
    if DTYPE.primitive_bitwidth == 16:
        power = tl.fma(x, tl.cast(LOG2E, x.dtype), -(floor * LOG2E))
    else:
        power = (x - floor) * LOG2E
    return tl.exp2(power)

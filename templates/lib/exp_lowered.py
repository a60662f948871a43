@triton.jit
def exp_lowered(x, scale, floor, rate, distance, DTYPE: tl.constexpr):
    """exp(x * scale - (floor - rate * distance)); for 16 bits all factors are those of base 2."""
    if DTYPE.primitive_bitwidth == 16:
        power = distance * (rate * LOG2E) - floor * LOG2E
        power = tl.fma(x, tl.cast(scale * LOG2E, x.dtype), power)
    else:
        power = tl.fma(x, tl.full((), scale, x.dtype), distance * rate - floor) * LOG2E
    return tl.exp2(power)

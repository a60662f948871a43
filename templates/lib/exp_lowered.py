@triton.jit
def exp_lowered(x, scale, floor, rate, distance, DTYPE: tl.constexpr):
    """exp(x * scale - (floor - rate * distance)), in base 2 from the start where x is less precise than that."""
    if DTYPE.primitive_bitwidth == 16:
        power = tl.fma(
            x,
            tl.full((), scale * LOG2E, x.dtype),
            distance * (rate * LOG2E) - floor * LOG2E,
        )
    else:
        power = tl.fma(x, tl.full((), scale, x.dtype), distance * rate - floor) * LOG2E
    return tl.exp2(power)

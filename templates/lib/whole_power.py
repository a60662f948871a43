@triton.jit
def whole_power(x, POWER: tl.constexpr, BITS: tl.constexpr):
    """x to a whole power above 0, by squares."""
    y = x
    for i in tl.static_range(1, BITS):
        y = y * y
        if POWER >> (BITS - 1 - i) & 1:
            y = y * x
    return y

@triton.jit
def power(x, y, DTYPE: tl.constexpr):
    """x to the power of y: of a negative number whole powers have a sign, and others are none."""
    size = tl.abs(x)
    if DTYPE.primitive_bitwidth == 32:
        # A digit of the logarithm is one of the power for each of its factors.
        log = tl.log2(size.to(tl.float64))
        result = tl.exp2(y.to(tl.float64) * log).to(size.dtype)
    else:
        result = tl.exp2(y * tl.log2(size))
    result = tl.where(size == 1.0, 1.0, result)
    whole = tl.floor(y) == y
    odd = whole & (2.0 * tl.floor(y * 0.5) != y)
    negative = tl.where(odd, -result, tl.where(whole, result, float("nan")))
    return tl.where(y == 0.0, 1.0, tl.where(x < 0.0, negative, result))

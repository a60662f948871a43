@triton.jit
def int_pow(base, exponent):
    """A whole number to a whole power, modulo 2**64; 0 for negative powers, but of 1 and -1."""
    square, rest = tl.cast(base, tl.int64), tl.maximum(tl.cast(exponent, tl.int64), 0)
    result = square * 0 + rest * 0 + 1
    for _ in tl.static_range(32):
        result = tl.where(rest & 1 != 0, result * square, result)
        square, rest = square * square, rest >> 1
    inverse = tl.where(base == 1, 1, tl.where(base == -1, 1 - 2 * (exponent & 1), 0))
    return tl.where(exponent < 0, inverse, result)

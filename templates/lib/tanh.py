@triton.jit
def tanh(x):
    """A series near 0 keeps all digits; elsewhere no exponent is positive: nothing overflows."""
    small = 0.125 if x.dtype.primitive_bitwidth < 64 else 0.001
    t = tl.exp(-2.0 * tl.abs(x))
    far = tl.where(x < 0.0, t - 1.0, 1.0 - t) / (1.0 + t)
    square = x * x
    near = x * (1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return tl.where(tl.abs(x) < small, near, far)

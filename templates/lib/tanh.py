@triton.jit
def tanh(x, DTYPE: tl.constexpr):
    """Within 2e-7 at half precision; above it a series near 0 keeps all digits."""
    if DTYPE.primitive_bitwidth == 16:
        y = 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E)))
    else:
        small = 0.125 if x.dtype.primitive_bitwidth < 64 else 0.001
        t = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
        far = tl.where(x < 0.0, t - 1.0, 1.0 - t) / (1.0 + t)
        square = x * x
        near = x * (1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
        y = tl.where(tl.abs(x) < small, near, far)
    return y

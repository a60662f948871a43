@triton.jit
def tanh(x):
    """Overflows nowhere: the exponent is never positive."""
    t = tl.exp(-2.0 * tl.abs(x))
    return tl.where(x < 0.0, t - 1.0, 1.0 - t) / (1.0 + t)

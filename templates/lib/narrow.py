@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """Rounded to a narrower type."""
    return x.to(tl.float32).to(TYPE).to(x.dtype)

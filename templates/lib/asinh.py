@triton.jit
def asinh(x):
    size = tl.abs(x)
    y = log1p(size + size * (size / (1.0 + tl.sqrt(1.0 + size * size))))
    return tl.where(x < 0.0, -y, y)

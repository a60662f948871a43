@triton.jit
def rounded(x, order: tl.constexpr, DTYPE: tl.constexpr):
    """What `order` roundings to DTYPE leave over of x, rounded to it: three hold 24 bits."""
    for _ in tl.static_range(order):
        x -= x.to(DTYPE).to(x.dtype)
    return x.to(DTYPE)

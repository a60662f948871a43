@triton.jit
def part(x, order: tl.constexpr, DTYPE: tl.constexpr):
    """What `order` roundings to DTYPE leave over of x, rounded to it: three of them hold 24 bits."""
    rest = x.to(tl.float32)
    for _ in tl.static_range(order):
        rest -= rest.to(DTYPE).to(tl.float32)
    return rest.to(DTYPE)

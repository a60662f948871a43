@triton.jit
def logaddexp(a, b):
    """log(exp(a) + exp(b)); two infinities of one sign stay what they are."""
    gap = tl.where(a == b, 0.0, tl.abs(a - b))
    return tl.maximum(a, b) + tl.log(1.0 + tl.exp(-gap))

@triton.jit
def load(pointers, ok, FULL: tl.constexpr):
    """A tile; positions that are not `ok` read as 0. FULL promises that all are."""
    if FULL:
        value = tl.load(pointers)
    else:
        value = tl.load(pointers, mask=ok, other=0)
    return value

@triton.jit
def add(pointers, value, ok, FULL: tl.constexpr):
    """Add a tile to memory, beside other programs. FULL promises that all positions are `ok`."""
    tl.atomic_add(pointers, value, mask=None if FULL else ok, sem="relaxed")

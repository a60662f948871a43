@triton.jit
def rint(x):
    """To the nearest whole number, halves to the even one."""
    below = tl.floor(x)
    rest = x - below
    odd = below - 2.0 * tl.floor(below * 0.5) != 0.0
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), below + 1.0, below)

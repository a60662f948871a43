@triton.jit
def floor_mod(a, b):
    """Has the sign of the divisor, as in Python."""
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)

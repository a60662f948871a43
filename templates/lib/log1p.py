@triton.jit
def log1p(x):
    """log(1 + x): what 1 + x rounds away is made up for."""
    y = 1.0 + x
    rest = y - 1.0
    exact = (rest == 0.0) | (tl.abs(y) == float("inf"))
    return tl.where(exact, x, tl.log(y) * (x / tl.where(exact, 1.0, rest)))

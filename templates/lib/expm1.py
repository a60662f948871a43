@triton.jit
def expm1(x):
    """exp(x) - 1: near 0 what the power rounds away is made up for."""
    y = tl.exp2(x * LOG2E)
    near = (y - 1.0) * (x / tl.where(y == 1.0, 1.0, tl.log(y)))
    near = tl.where(y == 1.0, x, near)
    return tl.where(tl.abs(x) < 0.5, near, y - 1.0)

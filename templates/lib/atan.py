@triton.jit
def atan(x):
    """By a rational function between 0 and 0.66, to which larger arguments are turned."""
    size = tl.abs(x)
    far = size > 2.414213562373095
    middle = (size > 0.66) & (size <= 2.414213562373095)
    z = tl.where(far, -1.0 / tl.where(far, size, 1.0), size)
    z = tl.where(middle, (size - 1.0) / (size + 1.0), z)
    s = z * z
    p = -0.8750608600031904 * s - 16.157537187333652
    p = ((p * s - 75.00855792314705) * s - 122.88666844901361) * s - 64.85021904942025
    q = (s + 24.858464901423062) * s + 165.02700983169885
    q = ((q * s + 432.88106049129027) * s + 485.3903996359137) * s + 194.5506571482614
    quarter = tl.full((), 0.7853981633974483, x.dtype)
    start = tl.where(far, 2.0 * quarter, tl.where(middle, quarter, 0.0))
    y = start + (z * (s * p / q) + z)
    return tl.where(x < 0.0, -y, y)

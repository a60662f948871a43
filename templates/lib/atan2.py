@triton.jit
def atan2(a, b):
    """The angle of the point (b, a)."""
    rise, run = tl.abs(a), tl.abs(b)
    most = tl.maximum(rise, run)
    angle = atan(tl.minimum(rise, run) / tl.where(most == 0.0, 1.0, most))
    angle = tl.where(rise > run, 1.5707963267948966 - angle, angle)
    angle = tl.where(b < 0.0, 3.141592653589793 - angle, angle)
    return tl.where(a < 0.0, -angle, angle)

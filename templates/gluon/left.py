@gluon.jit
def left(x, LAYOUT: gl.constexpr):
    """The left side of a product whose result lives in LAYOUT, in registers."""
    return gl.convert_layout(x, gl.DotOperandLayout(0, LAYOUT, 2))

@gluon.jit
def matrix(first, rows, stride, columns, BLOCK: gl.constexpr, WIDTH: gl.constexpr):
    """A matrix by its descriptor."""
    DTYPE: gl.constexpr = first.dtype.element_ty
    LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, WIDTH], DTYPE)
    return tma.make_tensor_descriptor(first, [rows, columns], [stride, 1], [BLOCK, WIDTH], LAYOUT)

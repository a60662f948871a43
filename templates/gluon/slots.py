@gluon.jit
def slots(matrix, STAGES: gl.constexpr, BLOCK: gl.constexpr, WIDTH: gl.constexpr):
    """Shared memory for tiles of a matrix."""
    return gl.allocate_shared_memory(matrix.dtype, [STAGES, BLOCK, WIDTH], matrix.layout)

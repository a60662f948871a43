@gluon.jit
def start_product(
    a, b, ROWS: gl.constexpr, COLUMNS: gl.constexpr, ACC: gl.constexpr, LAYOUT: gl.constexpr
):
    """Begin to multiply the rows of a by those of b."""
    zeros = gl.zeros((ROWS, COLUMNS), ACC, LAYOUT)
    return warpgroup_mma(a, b.permute((1, 0)), zeros, use_acc=False, is_async=True)

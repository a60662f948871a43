@gluon.jit
def column(x, LAYOUT: gl.constexpr):
    """A value of rows as a column of a tile that lives in LAYOUT."""
    return gl.convert_layout(x, gl.SliceLayout(1, LAYOUT))[:, None]

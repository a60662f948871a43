@triton.jit
def columns(tile, value, first: tl.constexpr, last: tl.constexpr):
    """The tile with a value, a number or a column, in its columns from `first` to before `last`."""
    place = tl.arange(0, tile.shape[1])[None, :]
    return tl.where((place >= first) & (place < last), value, tile)

@gluon.jit
def shared(x):
    """A tile in shared memory, for products to read."""
    LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for(x.shape, x.dtype)
    tile = gl.allocate_shared_memory(x.dtype, x.shape, LAYOUT, x)
    fence_async_shared()
    return tile

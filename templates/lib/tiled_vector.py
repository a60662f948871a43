@triton.jit
def tiled_vector(first, length, BLOCK: tl.constexpr, TMA: tl.constexpr):
    """What `fetch_vector` takes tiles from: a vector, if tiles are long, by its descriptor."""
    # A short tile by pointers costs less than the wait for its copy.
    if TMA and BLOCK >= 128:
        vector = tl.make_tensor_descriptor(first, [length], [1], [BLOCK])
    else:
        vector = first
    return vector

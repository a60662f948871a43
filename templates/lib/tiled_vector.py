@triton.jit
def tiled_vector(first, length, BLOCK: tl.constexpr, TMA: tl.constexpr):
    """What `fetch_vector` takes tiles from: a vector by its descriptor, or its first element."""
    if TMA:
        vector = tl.make_tensor_descriptor(first, [length], [1], [BLOCK])
    else:
        vector = first
    return vector

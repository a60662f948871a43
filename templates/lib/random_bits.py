@triton.jit
def random_bits(seed, stream, half_row, half_column, row_bit, column_bit):
    """Uniform in [0, 2**31) by position: Philox 4x32-10, two rows and two columns to a counter."""
    seed, stream = tl.cast(seed, tl.int64), tl.cast(stream, tl.int64)
    c0, c1 = tl.cast(half_column, tl.uint32), tl.cast(half_row, tl.uint32)
    c2, c3 = stream.to(tl.uint32), (stream >> 32).to(tl.uint32)
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        product_0, product_2 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product_2 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (product_0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = product_2.to(tl.uint32), product_0.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    upper = tl.where(column_bit != 0, c1, c0)
    lower = tl.where(column_bit != 0, c3, c2)
    return (tl.where(row_bit != 0, lower, upper) >> 1).to(tl.int32)

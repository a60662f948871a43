@triton.jit
def add_product(a, b, total, ACC: tl.constexpr, EARLY: tl.constexpr):
    """total + a @ b; EARLY: formed apart, for what total holds is under way yet."""
    if EARLY:
        product = tl.dot(a, b, input_precision="ieee", out_dtype=ACC)
        # The compiler would draw a plain sum into the accumulator.
        total = tl.fma(product, tl.full((), 1.0, ACC), total)
    else:
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    return total

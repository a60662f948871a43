@triton.jit
def below(a, b, EARLY: tl.constexpr):
    """Whether a < b; EARLY: by a difference, which leaves exponentials beside products."""
    if EARLY:
        holds = a - b < 0
    else:
        holds = a < b
    return holds

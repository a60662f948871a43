@triton.jit
def gelu_tanh(x, DTYPE: tl.constexpr):
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x), DTYPE))

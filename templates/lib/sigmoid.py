@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))

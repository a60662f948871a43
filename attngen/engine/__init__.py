"""The CPU engine: tile programs printed as straight-line PyTorch, batched over the grid, and launched in place of Triton kernels."""

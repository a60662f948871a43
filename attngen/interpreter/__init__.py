"""Programs without a GPU: emitted modules in Triton's interpreter, cascades in PyTorch."""

"""What touches Triton and devices: launching, interpreting, and inspecting compiled kernels."""

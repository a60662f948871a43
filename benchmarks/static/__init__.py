"""Figures of compiled kernels, read from their machine code without a GPU, and the check that none of them gets worse."""

"""Figures of compiled kernels, read from SASS without a GPU, and a check against regressions."""

"""Rewrites of kernels that preserve their outputs and the partition."""

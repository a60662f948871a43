"""Rewrites of kernels that keep their meaning and their partition."""

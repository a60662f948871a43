"""Kernels as einsum steps, before tiling: partition, rewrites and the facts that lowering needs."""

"""Kernels before they have tiles: which steps run together, and what they hold."""

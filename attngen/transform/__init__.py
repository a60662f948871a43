"""Passes from cascade to cascade: canonical form, one-pass form, gradients, token layouts."""

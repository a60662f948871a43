"""Cascade to cascade: canonical form, one-pass form, derivatives."""

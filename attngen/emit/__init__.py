"""Kernels to Triton source: every decision is made here, the templates only lay it out."""

"""Tiles by the clock of the GPU at hand."""

"""Tiles for kernels: what is legal (`space`), what it costs (`cost`), what was measured (`measured`), and what is taken (`choose`)."""

"""Tile programs: what one program of a kernel does, as statements. Lowered from a kernel, rewritten by passes, printed for a target."""

"""Which kernels can have specialised warps, and which tiles they have then; their text is made in `emit.gluon`."""

"""The printer of Gluon kernels: layouts in the text, rings of shared memory, one function for each group of warps."""

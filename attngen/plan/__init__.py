"""What a call runs, decided before anything is built: the layout of its tokens, its kernels, their tiles."""

"""Facts about the GPU architectures that kernels are compiled for."""

"""What is known about the GPUs that kernels are built for."""

"""Gluon kernels simulated on a CPU: their warps, shared memory, asynchronous operations, and races between them."""

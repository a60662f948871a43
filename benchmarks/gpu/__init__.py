"""Everything that takes a GPU to measure, in one command: `python -m benchmarks.gpu`."""

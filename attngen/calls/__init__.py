"""Calls of a compiled variant: from tensors and captured values to launches, with autograd."""

"""Reverse-mode gradients of a one-pass cascade."""

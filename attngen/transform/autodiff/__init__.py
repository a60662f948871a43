"""Gradients of a one-pass cascade."""

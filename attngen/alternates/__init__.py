"""Alternate kernels: others for a role than the plain one, launched with its arguments where a tile asks for them."""

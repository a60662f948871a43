"""The reference interpreter of cascades, its backends, and counter-based random bits."""

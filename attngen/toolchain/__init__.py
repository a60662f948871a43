"""Real compiles for a named target, and what their machine code says."""

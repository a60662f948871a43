"""Interpreters of cascades: element by element with any array backend, and random bits by position."""

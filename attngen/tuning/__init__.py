"""Tuning: tiles timed on the local GPU."""

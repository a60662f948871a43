"""Runs a user's function on traced values and reports its mistakes."""

"""Captures of a user's functions: proxies during a trace, origins that calls read again."""

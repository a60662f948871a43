"""The cascade of extended einsums: nodes, text, checks and the reference interpreter."""

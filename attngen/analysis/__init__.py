"""Analyses of cascades: axis roles, kv ranges of masks, pass counts, separation."""

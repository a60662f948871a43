"""Cascades over other token layouts: packed GQA heads, residue classes."""

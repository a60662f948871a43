"""Cascades over other layouts of the tokens: packed GQA heads, residue classes."""

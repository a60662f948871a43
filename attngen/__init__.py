"""attngen: a compiler for attention variants."""

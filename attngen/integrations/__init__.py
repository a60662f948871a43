"""attngen inside of other libraries. Each module needs its library and is imported by whoever wants it."""

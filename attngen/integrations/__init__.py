"""attngen in other libraries. Each module needs its library and is imported explicitly."""

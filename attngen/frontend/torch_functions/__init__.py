"""The meaning of torch functions in a trace."""

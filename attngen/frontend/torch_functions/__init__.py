"""What functions of torch mean in a trace."""

"""Running a user's function on traced values, and what its mistakes are called."""

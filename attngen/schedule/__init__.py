"""The scheduler: legal tiles (`space`), their cost (`cost`), measurements (`tables`, `tuned`), and the choice (`choose`)."""

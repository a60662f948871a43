"""From canonical to one-pass cascade: gauges, exponentials, and a check at random points."""

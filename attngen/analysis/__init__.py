"""What can be known about a cascade without changing it: ranges of masks, roles of axes, passes, separation."""

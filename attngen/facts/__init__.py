"""What is known of a kernel whatever its tiles are: ranges of its loop, guards, prefetchable dots, dense rows, work."""

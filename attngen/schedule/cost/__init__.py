"""What a tile costs: time, shared memory, warps, atomic adds."""

"""The cost model of a tile: time, shared memory, work repeated across warps, atomic adds."""

@gluon.jit
def put(ring, ready, free, turn, matrix, start, STAGES: gl.constexpr):
    """Fetch the tile that begins at a row, once the workers have left its slot; at first all are."""
    slot = turn % STAGES
    mbarrier.wait(free.index(slot), (turn // STAGES + 1) & 1)
    mbarrier.expect(ready.index(slot), matrix.block_type.nbytes)
    tma.async_copy_global_to_shared(matrix, [start, 0], ready.index(slot), ring.index(slot))

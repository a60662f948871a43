@gluon.jit
def take(ring, ready, turn, STAGES: gl.constexpr):
    """The tile of a turn, once it is there."""
    slot = turn % STAGES
    mbarrier.wait(ready.index(slot), (turn // STAGES) & 1)
    return ring.index(slot)

@gluon.jit
def barriers(COUNT: gl.constexpr, STAGES: gl.constexpr):
    """A barrier for each slot, which is passed when so many have arrived."""
    found = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(found.index(i), count=COUNT)
    return found

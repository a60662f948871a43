from __future__ import annotations

from attngen.kernel.rewrites.note import Note, told


def test_kernels_in_which_the_same_happened_share_a_line() -> None:
    notes = (
        Note("x", "forward", True, "a product less"),
        Note("x", "backward_rows", False, "others need it"),
        Note("x", "backward_columns", True, "a product less"),
        Note("y", "forward", True, "a product less"),
    )
    assert told("scale_folding", notes) == (
        "scale_folding: x in forward, backward_columns: a product less",
        "scale_folding: not x in backward_rows, for others need it",
        "scale_folding: y in forward: a product less",
    )


def test_nothing_to_tell() -> None:
    assert told("scale_folding", ()) == ()

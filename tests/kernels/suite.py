"""What an emitted kernel has to survive, in few seconds: the suite that mutants are run against.

Every tensor ends at an unmapped page and has NaN in front of it and between its rows, fresh memory is NaN, everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.kernels import cases, harness, memory

SIZES = cases.Sizes(b=2, g=1, r=2, m=40, n=70, d=24, e=16)


def survive(variants: Iterable[str]) -> None:
    """Variants in fenced memory, more keys than queries and the other way round.

    Raises:
        AssertionError: a result is wrong. A read or a write behind a tensor ends the process.
    """
    for variant in variants:
        for sizes in (SIZES, cases.Sizes(b=1, g=2, r=1, m=70, n=33, d=16, e=40)):
            check(variant, sizes, harness.tiles(32, 32))


def check(variant: str, sizes: cases.Sizes, tile: harness.Tiles) -> None:
    """One variant at one size, in fenced memory."""
    case = cases.case(variant, sizes)
    fenced = memory.stored(case, memory.fenced)
    found = harness.run(case.cascade, fenced.values, fenced.cotangents, tile, memory.fenced_empty)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))

"""The warp-specialised forward for sm90: its tiles, what it runs with, and what it needs. Never run on a GPU yet, so nothing chooses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attngen.alternates.alternate_kernel import AlternateLaunch
from attngen.alternates.warp_specialization.eligibility import why_ineligible
from attngen.analysis.predicates import Guards
from attngen.errors import ScheduleError
from attngen.kernel.feature_tiles import tile_widths
from attngen.kernel.partition import Kernel
from attngen.targets.table import Target

WORKERS = 2
"""Groups of four warps that compute, with 64 rows each."""
ROLE = "forward"
WIDEST = 256
"""Columns of a product of the matrix unit, at most."""
_DTYPES = ("float16", "bfloat16")
_BARRIER_BYTES = 1056
_FIELDS: Mapping[str, Any] = {"resident": 128, "num_warps": 8, "pipe": False, "late": False, "tma": True}
_RESERVED = """
    gluon gl mbarrier tma warpgroup_mma warpgroup_mma_wait fence_async_shared matrix slots barriers put take give shared left column
    start_product PART STAGES PAIRS of_form specialised
"""
_IMPORTS = {
    "triton.experimental": frozenset({"gluon"}),
    "triton.experimental.gluon": frozenset({"language"}),
    "triton.experimental.gluon.language.nvidia.hopper": frozenset(
        {"fence_async_shared", "mbarrier", "tma", "warpgroup_mma", "warpgroup_mma_wait"}
    ),
}


@dataclass(frozen=True, slots=True)
class SpecialisedForward:
    """One warp fetches tiles into rings of shared memory, two groups of four warps compute half of the rows each."""

    flag: str = "specialised"
    role: str = ROLE
    title: str = "warp-specialised form"
    summary: str = "one warp fetches them, for two groups of four that compute half of the rows each; never run on a GPU yet"
    function: str = f"{ROLE}_specialised_kernel"
    first_function: str = f"{ROLE}_scores"

    @property
    def fields(self) -> Mapping[str, Any]:
        """Two groups of four warps with 64 rows each, and tiles that descriptors fetch."""
        return _FIELDS

    @property
    def reserved(self) -> frozenset[str]:
        """Names of Gluon, of helper functions and of constants."""
        return frozenset(_RESERVED.split())

    @property
    def imports(self) -> Mapping[str, frozenset[str]]:
        """From the parts of Triton that are for one target."""
        return _IMPORTS

    def why_ineligible(self, kernel: Kernel, prefetched: tuple[str, ...], exists: Guards) -> str:
        """See `eligibility`."""
        return why_ineligible(kernel, prefetched, exists)

    def check(self, extents: Mapping[str, int], dtype: str, target: Target) -> None:
        """Its products are those of sm90, of two-byte elements, and up to `WIDEST` columns wide."""
        wide = max((tile_widths(length)[0] for length in extents.values()), default=0)
        if wide > WIDEST:
            remedy = "Leave SPECIALISED out of schedule= for them."
            raise ScheduleError(f"SPECIALISED multiplies tiles of up to {WIDEST} columns, and one of {wide} is asked for", remedy=remedy)
        if not _runs(dtype, target):
            remedy = "Leave SPECIALISED out of schedule= there."
            raise ScheduleError(f"SPECIALISED is a form for float16 and bfloat16 on sm90, not for {dtype} on {target.name}", remedy=remedy)

    def tiles(self, dtype: str, target: Target, length: str) -> tuple[tuple[int, int], ...]:
        """Two widths with two stages each; shorter sequences have too few rows for warps to divide."""
        return ((128, 2), (64, 2)) if _runs(dtype, target) and length == "long" else ()

    def shared_bytes(self, resident: int, ring: int) -> int:
        """Tiles, rings, their barriers, and nothing that the compiler adds."""
        return resident + ring + _BARRIER_BYTES

    def launch(self, num_warps: int, num_stages: int) -> AlternateLaunch:
        """With the warps of the first worker; the kernel adds those of the others."""
        return AlternateLaunch(num_warps // WORKERS, (("STAGES", num_stages),))


def _runs(dtype: str, target: Target) -> bool:
    return target.matrix_unit == "wgmma" and dtype in _DTYPES

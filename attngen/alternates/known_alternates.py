"""The alternate kernels that there are."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.alternates.alternate_kernel import AlternateKernel
from attngen.alternates.warp_specialization.specialised_forward import SpecialisedForward
from attngen.kernel.partition import Kernel

_ALL: tuple[AlternateKernel, ...] = (SpecialisedForward(),)
ALTERNATES: Mapping[str, AlternateKernel] = {alternate.flag: alternate for alternate in _ALL}
"""By their flags, in the order in which modules hold them."""


def eligible(kernel: Kernel) -> tuple[str, ...]:
    """Flags of the alternates that a kernel has."""
    return tuple(flag for flag, alternate in ALTERNATES.items() if not alternate.why_ineligible(kernel))


def of_role(role: str) -> tuple[AlternateKernel, ...]:
    """The alternates that kernels of a role may have."""
    return tuple(alternate for alternate in ALTERNATES.values() if alternate.role == role)

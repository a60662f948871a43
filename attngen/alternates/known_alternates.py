"""The alternate kernels that there are."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.alternates.alternate_kernel import AlternateKernel
from attngen.alternates.warp_specialization.specialised_forward import SpecialisedForward
from attngen.analysis.predicates import Guards
from attngen.kernel.partition import Kernel

_ALL: tuple[AlternateKernel, ...] = (SpecialisedForward(),)
ALTERNATES: Mapping[str, AlternateKernel] = {alternate.flag: alternate for alternate in _ALL}
"""By their flags, in the order in which modules hold them."""


def ineligible(kernel: Kernel, prefetched: tuple[str, ...], exists: Guards) -> dict[str, str]:
    """For each alternate why a kernel has none such, "" if it has one; arguments as for `why_ineligible`."""
    return {flag: alternate.why_ineligible(kernel, prefetched, exists) for flag, alternate in ALTERNATES.items()}


def of_role(role: str) -> tuple[AlternateKernel, ...]:
    """The alternates that kernels of a role may have."""
    return tuple(alternate for alternate in ALTERNATES.values() if alternate.role == role)

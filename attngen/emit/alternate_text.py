"""The text of alternate kernels: which function prints which of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attngen.alternates.warp_specialization.specialised_forward import SpecialisedForward
from attngen.emit.context import AlternateText
from attngen.emit.gluon.warp_partitions import specialised_text
from attngen.emit.kernel_text import Lowered
from attngen.emit.placement import Shapes
from attngen.facts.kernel_facts import KernelFacts

_PRINTERS: Mapping[str, Callable[[KernelFacts, Shapes, Lowered], AlternateText]] = {SpecialisedForward().flag: specialised_text}


def alternate_texts(facts: KernelFacts, shapes: Shapes, plain: Lowered, flags: frozenset[str]) -> tuple[AlternateText, ...]:
    """The alternates of a kernel.

    Args:
        facts, shapes: as for `lower_kernel`.
        plain: what that gave.
        flags: of the alternates that are asked for; those that the kernel does not have are left out.
    """
    return tuple(_PRINTERS[flag](facts, shapes, plain) for flag in facts.alternates if flag in flags)

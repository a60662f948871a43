"""Which form of its backward a variant runs with: two walks, whose results are the same in every run, or one, where that is faster.

    compile(..., deterministic=True), torch.use_deterministic_algorithms(True)       two walks
    schedule={"backward_fused": ...}, {"backward_rows": ...}                         the form that has such a kernel
    a captured tensor requires a gradient that rows sum up                           two walks
    else                                                                             the cheaper one, by the model of the schedule

Takes the `Kernels` of a variant, gives those whose backward is to run. Nothing is built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attngen.errors import CompileFailed, DoesNotFit, MissingKernel
from attngen.kernel.fused_backward import fused
from attngen.runtime.kernels import Kernels
from attngen.schedule.backward_choice import compare, form_of
from attngen.schedule.space import length_class
from attngen.targets.table import Target


@dataclass(frozen=True, slots=True)
class Form:
    """The kernels whose backward runs, and why, for `explain`."""

    kernels: Kernels
    why: str


def is_repeatable(kernels: Kernels) -> bool:
    """Whether results have to be the same in every run."""
    return kernels.options.deterministic or torch.are_deterministic_algorithms_enabled()


def form(kernels: Kernels, dims: Mapping[str, int], dtype: str, target: Target, lengths: tuple[int, int] | None = None) -> Form:
    """The form for a call, decided once for each class of lengths.

    Args:
        kernels: of the variant for this dtype, with the backward in two walks.
        dims: lengths of the feature axes.
        dtype: of the arguments, by its short name.
        target: where it runs.
        lengths: queries and keys.

    Raises:
        DoesNotFit: no tile of the two walks fits the target.
    """
    repeatable = is_repeatable(kernels)
    key = (tuple(dims.items()), dtype, target.name, "long" if lengths is None else length_class(*lengths), repeatable)
    if key not in kernels.forms:
        kernels.forms[key] = _decided(kernels, dims, dtype, target, lengths, repeatable)
    fused_, why = kernels.forms[key]
    other = kernels.fused() if fused_ else None
    return Form(kernels if other is None else other, why)


def settle_forms(kernels: Kernels, dims: Mapping[str, int], dtype: str, target: Target) -> None:
    """Settle the tiles of both walks, and those of the one walk where that is what runs.

    Raises:
        CompileFailed: no form of the backward compiles, or the forward does not.
    """
    for found in dict.fromkeys((kernels, form(kernels, dims, dtype, target).kernels)):
        try:
            found.settled(dims, dtype, target)
        except CompileFailed:
            other_form(kernels, found, dims, dtype, target).settled(dims, dtype, target)


def other_form(
    kernels: Kernels, failed: Kernels, dims: Mapping[str, int], dtype: str, target: Target, lengths: tuple[int, int] | None = None
) -> Kernels:
    """What runs instead of a form that does not compile; to be called where that is raised.

    Raises:
        CompileFailed: the other does not either, or may not run.
    """
    kernels.forms.clear()
    found = form(kernels, dims, dtype, target, lengths).kernels
    if found is failed:
        raise
    return found


def _decided(
    kernels: Kernels, dims: Mapping[str, int], dtype: str, target: Target, lengths: tuple[int, int] | None, repeatable: bool
) -> tuple[bool, str]:
    """Whether one walk it is, and why."""
    other = kernels.fused()
    if other is None:
        refused = fused(kernels.program.parts).refused
        return False, f"{'; '.join(refused)}" if refused else "there is nothing to join"
    if repeatable:
        return False, "results are to be the same in every run"
    named = form_of({name for name, value in kernels.options.schedule or () if isinstance(value, tuple)})
    if named:
        return named == "one walk", "the schedule names its kernels"
    summed = [name for kernel in other.program.kernels for name in kernel.atomic_adds if not set(kernel.axes(name)) & set(kernel.features)]
    if summed:
        return False, f"{', '.join(summed)} would be added up in any order, and gradients of captured tensors are the same in every run"
    if kernels.knobs.strict and not _is_stored(other, dims, dtype, target, lengths):
        return False, "strict mode has no other stored"
    try:
        one = other.choice(dims, dtype, target, lengths)
    except (DoesNotFit, CompileFailed) as error:
        return False, error.rule
    try:
        two = kernels.choice(dims, dtype, target, lengths)
    except CompileFailed as error:
        return True, error.rule
    verdict = compare(two, one)
    return verdict.fused, verdict.why


def _is_stored(kernels: Kernels, dims: Mapping[str, int], dtype: str, target: Target, lengths: tuple[int, int] | None) -> bool:
    """Whether kernels can run without being built."""
    try:
        kernels.settled(dims, dtype, target, lengths)
        kernels.module(kernels.source(dims), False, target, dims, dtype)
    except MissingKernel:
        return False
    return True

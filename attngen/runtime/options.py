"""What a user asks of `compile` besides the variant, as hashable values: options, and schedules by the role of a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from attngen.errors import ScheduleError
from attngen.kernel.split_kv import PARTS
from attngen.pipeline import Program, fused
from attngen.schedule.backward_choice import form_of

Frozen = tuple[tuple[str, object], ...]
"""A user's schedule as a hashable value."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `compile` was asked for besides the variant. `arch` None: the device of the tensors; `schedule`: the user's
    tiles, frozen; `keep_lists`: lists of tiles outlive a call; `without`: rewrites left out, `asked`: those carried out in any case;
    `local`: tiles that were tuned on this machine count, which a product for others must not depend on; `gradients`: it has a backward;
    `divided`: programs share the stream of the forward, and there is no backward; `deterministic`: results are the same in every run,
    whatever PyTorch is told; `precise_delta`: delta is summed over the keys, None where the derivation knows that it matters; `stored`: for
    calls in strict mode."""

    arch: str | None = None
    schedule: Frozen | None = None
    keep_lists: bool = False
    without: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    local: bool = True
    gradients: bool = True
    divided: bool = False
    deterministic: bool = False
    precise_delta: bool | None = None
    stored: bool = False


def freeze(schedule: Mapping[str, Any]) -> Frozen:
    """A user's schedule as a hashable value.

    Raises:
        ScheduleError: it is no dict.
    """
    if not isinstance(schedule, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        remedy = 'Pass tiles of kernels: schedule={"forward": {"BLOCK_M": 64}}.'
        raise ScheduleError(f"schedule= is a {type(schedule).__name__}, not a dict", remedy=remedy)
    return tuple((str(name), freeze(value) if isinstance(value, Mapping) else value) for name, value in schedule.items())


def thaw(schedule: Frozen) -> dict[str, object]:
    """The inverse of `freeze`."""
    return {name: thaw(value) if isinstance(value, tuple) else value for name, value in schedule}  # pyright: ignore[reportUnknownArgumentType]


def asks_specialised(schedule: Frozen | None) -> bool:
    """Whether a user's frozen schedule asks for the warp-specialised form of the forward."""
    said = thaw(schedule or ())
    own = said.get("forward", said)
    return isinstance(own, Mapping) and cast("Mapping[str, object]", own).get("SPECIALISED") is True


def forward_only(schedule: Frozen | None) -> Frozen | None:
    """What a user's frozen schedule says of the forward, for calls of few queries, where warps have too few rows to divide; None where it
    says nothing."""
    said = [item for item in schedule or () if item[0] == "forward" or not isinstance(item[1], tuple)]
    kept = [(name, _unspecialised(cast("Frozen", value)) if isinstance(value, tuple) else value) for name, value in said]
    return tuple(item for item in _unspecialised(kept) if item[1] != ()) or None


def _unspecialised(schedule: Iterable[tuple[str, object]]) -> Frozen:
    return tuple(item for item in schedule if item[0] != "SPECIALISED")


def in_parts_only(schedule: Frozen | None) -> Frozen | None:
    """What a user's frozen schedule says of the forward, for the kernel that walks its parts; None where it says nothing."""
    said = forward_only(schedule) or ()
    whole = [item for item in said if item[0] != "forward"]
    mine = next((value for name, value in said if name == "forward"), tuple(whole))
    return ((PARTS, mine),) if mine else None


def roles(program: Program) -> frozenset[str]:
    """Of the kernels of a program, and of those that it has if its backward is one walk."""
    other = fused(program)
    return frozenset(kernel.role for form in (program, other) if form is not None for kernel in form.kernels)


def own_part(schedule: Frozen | None, program: Program) -> Frozen | None:
    """A user's frozen schedule without what it says of kernels that only the other form of the backward has; None where nothing is left."""
    own = {kernel.role for kernel in program.kernels}
    named = {name for name, value in schedule or () if isinstance(value, tuple)}
    gone = {name for name, value in schedule or () if value == () and name in own}
    if any(kernel.atomic_adds for kernel in program.kernels):
        gone |= {name for name in named if form_of({name}) == "two walks"}
    elif any(form_of({name}) == "one walk" for name in named):
        gone |= roles(program) - own
    return tuple(item for item in schedule or () if item[0] not in gone) or None

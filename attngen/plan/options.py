"""What a user asks of `compile` besides the variant, as hashable values: options, and tiles for named kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from attngen.errors import ScheduleError
from attngen.kernel.split_kv import PARTS
from attngen.pipeline import Program

Frozen = tuple[tuple[str, object], ...]
"""A user's schedule as a hashable value."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `compile` was asked for besides the variant. `arch` None: the device of the tensors; `schedule`: the user's
    tiles, frozen; `keep_lists`: lists of tiles outlive a call; `without`: rewrites left out, `asked`: those carried out in any case;
    `local`: tiles that were tuned on this machine count, which a product for others must not depend on; `deterministic`: results are the
    same in every run, whatever PyTorch is told; `precise_delta`: delta is summed over the keys, None where the derivation knows that it
    matters; `stored`: for calls in strict mode."""

    arch: str | None = None
    schedule: Frozen | None = None
    keep_lists: bool = False
    without: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    local: bool = True
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


def own_schedule(asked: Frozen | None, program: Program, *, few: bool = False) -> Frozen | None:
    """What a user's frozen schedule says of the kernels of one program: the only place where it meets kernels.

    Tiles of kernels that the program lacks belong to other programs of the variant. With split-KV, the kernel that handles a slice of the
    keys has the tile of the forward.

    Args:
        asked: values for all kernels, or by role.
        program: whose kernels run.
        few: it is for few queries, whose rows are too few to specialise warps.

    Returns:
        None where nothing is said.
    """
    if asked is None:
        return None
    if program.divided:
        named = next((value for role, value in asked if role == "forward" and isinstance(value, tuple)), None)
        whole = tuple(item for item in asked if not isinstance(item[1], tuple))
        mine = _unspecialised(whole if named is None else cast("Frozen", named))
        return ((PARTS, mine),) if mine else None
    roles = {kernel.role for kernel in program.kernels}
    own = tuple(item for item in asked if not isinstance(item[1], tuple) or item[0] in roles)
    if few:
        own = _unspecialised((role, _unspecialised(cast("Frozen", value)) if isinstance(value, tuple) else value) for role, value in own)
    return tuple(item for item in own if item[1] != ()) or None


def _unspecialised(schedule: Iterable[tuple[str, object]]) -> Frozen:
    return tuple(item for item in schedule if item[0] != "SPECIALISED")

"""What a user asks of `compile` besides the variant, as hashable values: options, and tiles for named kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from attngen.alternates.known_alternates import ALTERNATES, of_role
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


def asked_alternates(schedule: Frozen | None, role: str = "") -> frozenset[str]:
    """Flags of the alternate kernels that a user's frozen schedule asks for, of all roles or of one."""
    said = thaw(schedule or ())
    found = of_role(role) if role else ALTERNATES.values()
    owns = {alternate.flag: said.get(alternate.role, said) for alternate in found}
    own = {flag: cast("Mapping[str, object]", values) for flag, values in owns.items() if isinstance(values, Mapping)}
    return frozenset(flag for flag, values in own.items() if values.get(flag.upper()) is True)


def own_schedule(asked: Frozen | None, program: Program, *, few: bool = False) -> Frozen | None:
    """What a user's frozen schedule says of the kernels of one program: the only place where it meets kernels.

    Tiles of kernels that the program lacks belong to other programs of the variant. With split-KV, the kernel that handles a slice of the
    keys has the tile of the forward.

    Args:
        asked: values for all kernels, or by role.
        program: whose kernels run.
        few: it is for few queries, which have too few rows for alternate kernels.

    Returns:
        None where nothing is said.
    """
    if asked is None:
        return None
    if program.divided:
        named = next((value for role, value in asked if role == "forward" and isinstance(value, tuple)), None)
        whole = tuple(item for item in asked if not isinstance(item[1], tuple))
        mine = _plain(whole if named is None else cast("Frozen", named))
        return ((PARTS, mine),) if mine else None
    roles = {kernel.role for kernel in program.kernels}
    own = tuple(item for item in asked if not isinstance(item[1], tuple) or item[0] in roles)
    if few:
        own = _plain((role, _plain(cast("Frozen", value)) if isinstance(value, tuple) else value) for role, value in own)
    return tuple(item for item in own if item[1] != ()) or None


def _plain(schedule: Iterable[tuple[str, object]]) -> Frozen:
    alternates = {flag.upper() for flag in ALTERNATES}
    return tuple(item for item in schedule if item[0] not in alternates)

"""Schedules: tile extents, number of warps, number of stages and form of each kernel.

Frozen values, validated on construction. A `TileSchedule` belongs to one kernel, a `ModuleSchedule` holds one for every role of a module.
Both print as text that parses back, for keys and for `explain`. Whether a schedule fits a target is for `space` and `cost`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from attngen.alternates.alternate_kernel import AlternateKernel
from attngen.alternates.known_alternates import ALTERNATES
from attngen.errors import ScheduleError
from attngen.facts.kernel_facts import KernelFacts
from attngen.kernel.partition import Kernel
from attngen.targets.table import Target

BLOCKS = (16, 32, 64, 128, 256)
COMBINE_ROWS = (1, 2, 4, 8)
"""Resident extents, besides `BLOCKS`, of the split-KV combine kernel, which has no dots."""
WARPS = (1, 2, 4, 8, 16)
STAGES = (1, 2, 3, 4, 5, 6)
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
FIELDS = ("resident", "streamed", "num_warps", "num_stages")
FLAGS = ("pipe", "late", "tma")
_SWITCHES = (*FLAGS, *ALTERNATES)
"""The boolean values of schedules."""
_LEGAL = {
    "resident": (*COMBINE_ROWS, *BLOCKS),
    "streamed": BLOCKS,
    "num_warps": WARPS,
    "num_stages": STAGES,
    **dict.fromkeys(_SWITCHES, (False, True)),
}
_TEXT = re.compile(
    r"(?P<resident>\d+)(?:x(?P<streamed>\d+))?,w(?P<num_warps>\d+),s(?P<num_stages>\d+)(?P<pipe>,pipe(?P<late>,late)?)?(?P<tma>,tma)?"
    rf"(?:,(?P<alternate>{'|'.join(ALTERNATES)}))?"
)


@dataclass(frozen=True, slots=True)
class TileSchedule:
    """Tile extents in positions (`streamed` None without a loop) and the form of the kernel. `str` gives "128x64,w8,s2,pipe,tma".

    `pipe` software-pipelines: the dots of the next iteration are issued in this one, with `late` after its maximum. `tma` loads tiles by
    tensor descriptors. `alternate` is the flag of an alternate kernel, "" for the plain one.
    """

    resident: int
    streamed: int | None
    num_warps: int
    num_stages: int
    pipe: bool = False
    late: bool = False
    tma: bool = False
    alternate: str = ""

    def __post_init__(self) -> None:
        for field in (*FIELDS, *FLAGS):
            value = getattr(self, field)
            if value is None and field == "streamed":
                continue
            if not _is_legal(field, value):
                raise ScheduleError(
                    f"{field}={value!r} is not a legal value of a schedule",
                    remedy=f"{field} is one of {', '.join(map(str, _LEGAL[field]))}.",
                )
        if self.late and not self.pipe:
            raise ScheduleError("late=True places the prefetched dots, which a kernel without pipe=True does not have", remedy="Set both.")
        if self.alternate:
            self._check_alternate()

    def _check_alternate(self) -> None:
        if self.alternate not in ALTERNATES:
            known = ", ".join(ALTERNATES)
            raise ScheduleError(f"{self.alternate!r} is not an alternate kernel", remedy=f"alternate is one of {known}, or empty.")
        fields = ALTERNATES[self.alternate].fields
        wrong = [f"{field}={getattr(self, field)}" for field, value in fields.items() if getattr(self, field) != value]
        if wrong:
            legal = ", ".join(f"{field}={value}" for field, value in fields.items())
            raise ScheduleError(f"{self.alternate}=True excludes {', '.join(wrong)}", remedy=f"It requires {legal}.")

    def __str__(self) -> str:
        tile = f"{self.resident}" if self.streamed is None else f"{self.resident}x{self.streamed}"
        return f"{tile},w{self.num_warps},s{self.num_stages}" + "".join(f",{flag}" for flag in self.flags)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that are set, then that of the alternate kernel."""
        return (*(flag for flag in FLAGS if getattr(self, flag)), *([self.alternate] if self.alternate else ()))


def _is_legal(field: str, value: object) -> bool:
    """Types are compared exactly, since True is an int."""
    return type(value) is (bool if field in _SWITCHES else int) and value in _LEGAL[field]


@dataclass(frozen=True, slots=True)
class ModuleSchedule:
    """One schedule for every role of a module, in the order of its kernels; `str` gives "forward=128x64,w8,s2 ..."."""

    tiles: tuple[tuple[str, TileSchedule], ...]

    def __post_init__(self) -> None:
        roles = [role for role, _ in self.tiles]
        if len(set(roles)) != len(roles):
            raise ScheduleError(f"a schedule names a kernel twice: {', '.join(roles)}", remedy="Give each role once.")

    def __getitem__(self, role: str) -> TileSchedule:
        for name, tile in self.tiles:
            if name == role:
                return tile
        raise _unknown_role(role, (name for name, _ in self.tiles))

    def __str__(self) -> str:
        return " ".join(f"{role}={tile}" for role, tile in self.tiles)

    @property
    def alternates(self) -> frozenset[str]:
        """Flags of the alternate kernels in use."""
        return frozenset(tile.alternate for _, tile in self.tiles if tile.alternate)

    def replace(self, changes: Mapping[str, TileSchedule]) -> ModuleSchedule:
        """The schedule with the tiles of some roles replaced."""
        for role in changes:
            self[role]
        return ModuleSchedule(tuple((role, changes.get(role, tile)) for role, tile in self.tiles))

    def without_alternates(self) -> ModuleSchedule:
        """The same tiles for the kernels themselves, as on a machine that has no form of theirs to choose."""
        return ModuleSchedule(tuple((role, replace(tile, alternate="")) for role, tile in self.tiles))

    def as_tiles(self, kernels: Iterable[Kernel]) -> dict[str, dict[str, int]]:
        """The `tiles` argument of an emitted module's host functions.

        Args:
            kernels: of the module; their axes name the blocks.

        Returns:
            For each role `BLOCK_<RESIDENT AXIS>`, `BLOCK_<STREAMED AXIS>` (positions), `num_warps`, `num_stages`, and the flags
            that are set, in capitals.
        """
        return {kernel.role: _launch_values(kernel, self[kernel.role]) for kernel in kernels}


def _launch_values(kernel: Kernel, tile: TileSchedule) -> dict[str, int]:
    values = {f"BLOCK_{kernel.resident.upper()}": tile.resident}
    if kernel.streamed is not None:
        if tile.streamed is None:
            raise ScheduleError(f"the kernel {kernel.role} streams {kernel.streamed}, but its schedule {tile} has no streamed block")
        values[f"BLOCK_{kernel.streamed.upper()}"] = tile.streamed
    flags = {flag.upper(): True for flag in tile.flags}
    return {**values, "num_warps": tile.num_warps, "num_stages": tile.num_stages, **flags}


def parse_tile(text: str) -> TileSchedule:
    """Read "128x64,w8,s2" (or "128,w4,s1" without a stream) back.

    Raises:
        ScheduleError: the text has another form or an illegal value.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ScheduleError(f"{text!r} is not the text of a schedule", remedy='Write tile, warps and stages: "128x64,w8,s2".')
    streamed = found["streamed"]
    return TileSchedule(
        int(found["resident"]),
        None if streamed is None else int(streamed),
        int(found["num_warps"]),
        int(found["num_stages"]),
        *(found[flag] is not None for flag in FLAGS),
        alternate=found["alternate"] or "",
    )


def parse_schedule(text: str) -> ModuleSchedule:
    """Read the text of a `ModuleSchedule` back.

    Raises:
        ScheduleError: the text has another form or an illegal value.
    """
    pairs = [item.partition("=") for item in text.split()]
    if any(not middle for _, middle, _ in pairs):
        raise ScheduleError(f"{text!r} is not the text of a schedule", remedy='Write roles and tiles: "forward=128x64,w8,s2 ...".')
    return ModuleSchedule(tuple((role, parse_tile(tile)) for role, _, tile in pairs))


# ---- overrides by the user


def override(chosen: ModuleSchedule, facts: Iterable[KernelFacts], given: object) -> ModuleSchedule:
    """Apply a user's `schedule=` to a chosen schedule.

    Args:
        chosen: the defaults.
        facts: of the module's kernels.
        given: role -> values, or values for all kernels. Values are `BLOCK_<AXIS>` for the kernel's own axes, `num_warps`, `num_stages`,
            and `PIPE`, `LATE`, `TMA` and alternates, in capitals, for kernels that have these forms (other kernels accept False). Values
            left out stay as chosen, except that PIPE=False clears LATE and that an alternate sets the values it requires.

    Raises:
        ScheduleError: an unknown role or name, an illegal value; the message lists the legal ones.
    """
    kernels = tuple(facts)
    roles = tuple(kernel.role for kernel in kernels)
    values = _mapping(given, "schedule=", roles)
    by_role = [name for name, value in values.items() if isinstance(value, Mapping) or name in roles]
    odd = [repr(name) for name in values if name not in by_role]
    if by_role and odd:
        raise ScheduleError(f"schedule= mixes roles with plain values ({', '.join(odd)})", remedy=_form(roles))
    changes: dict[str, TileSchedule] = {}
    for role in by_role:
        kernel = next((kernel for kernel in kernels if kernel.role == role), None)
        if kernel is None:
            raise _unknown_role(role, roles)
        changes[kernel.role] = _changed(kernel, chosen[kernel.role], _mapping(values[role], f"the schedule of {role}", roles))
    if by_role:
        return chosen.replace(changes)
    for alternate in ALTERNATES.values():
        if all(kernel.ineligible[alternate.flag] for kernel in kernels):
            _refuse_ineligible(alternate, kernels[0], values)
    known = {name for kernel in kernels for name in _names(kernel)}
    values = {name: value for name, value in values.items() if name in known or not _is_plain(name, value)}
    _check_names("schedule=", values, known)
    for kernel in kernels:
        mine = {name: value for name, value in values.items() if name in _names(kernel)}
        changes[kernel.role] = _changed(kernel, chosen[kernel.role], mine)
    return chosen.replace(changes)


def check_roles(given: object, roles: Iterable[str]) -> None:
    """Refuse a role that no kernel of a variant has, before any is built.

    Args:
        given: a user's `schedule=`.
        roles: of all kernels in all forms of the variant.

    Raises:
        ScheduleError: an unknown role; the message lists the legal ones.
    """
    legal = tuple(sorted(roles))
    for role, value in _mapping(given, "schedule=", legal).items():
        if isinstance(value, Mapping) and role not in legal:
            raise _unknown_role(role, legal)


def _mapping(given: object, what: str, roles: tuple[str, ...]) -> Mapping[object, object]:
    if not isinstance(given, Mapping):
        raise ScheduleError(f"{what} is {given!r}, not a dict", remedy=_form(roles))
    return cast("Mapping[object, object]", given)


def _names(facts: KernelFacts) -> dict[str, str]:
    """Names of a kernel's values, with the fields they set."""
    kernel = facts.kernel
    names = {f"BLOCK_{kernel.resident.upper()}": "resident"}
    if kernel.streamed is not None:
        names[f"BLOCK_{kernel.streamed.upper()}"] = "streamed"
    flags = {field.upper(): field for field in forms(facts)}
    return {**names, "num_warps": "num_warps", "num_stages": "num_stages", **flags}


def forms(facts: KernelFacts) -> tuple[str, ...]:
    """The flags a kernel supports: `pipe` with prefetchable dots, `late` if a running maximum depends on them, `tma` with dense streamed
    rows, and those of its alternates."""
    late = bool(facts.prefetched and facts.kernel.gauges)
    known = {"pipe": bool(facts.prefetched), "late": late, "tma": bool(facts.dense_rows)}
    return (*(flag for flag in FLAGS if known[flag]), *facts.alternates)


def _changed(kernel: KernelFacts, tile: TileSchedule, values: Mapping[object, object]) -> TileSchedule:
    names = _names(kernel)
    for alternate in ALTERNATES.values():
        _refuse_ineligible(alternate, kernel, values)
    values = {name: value for name, value in values.items() if name in names or not _is_plain(name, value)}
    _check_names(f"the schedule of {kernel.role}", values, names)
    fields: dict[str, Any] = {field: getattr(tile, field) for field in (*FIELDS, *FLAGS)}
    fields |= {flag: tile.alternate == flag for flag in ALTERNATES}
    for name, value in values.items():
        field = names[str(name)]
        legal = BLOCKS if field == "resident" and not kernel.work.combines_splits else _LEGAL[field]
        if not _is_legal(field, value) or value not in legal:
            raise ScheduleError(
                f"the schedule of {kernel.role} sets {name}={value!r}",
                remedy=f"{name} is one of {', '.join(map(str, legal))}.",
            )
        fields[field] = value
    asked = [alternate for flag, alternate in ALTERNATES.items() if fields.pop(flag)]
    for alternate in asked:
        fields |= {field: value for field, value in alternate.fields.items() if field not in {names[str(name)] for name in values}}
    fields["late"] = fields["late"] and (fields["pipe"] or values.get("LATE") is True)
    return TileSchedule(**fields, alternate=asked[0].flag if asked else "")


def _is_plain(name: object, value: object) -> bool:
    """Whether a value switches a form off, which is legal for every kernel."""
    return value is False and name in {flag.upper() for flag in _SWITCHES}


def _refuse_ineligible(alternate: AlternateKernel, kernel: KernelFacts, values: Mapping[object, object]) -> None:
    """Raise with the reason if an alternate is set for a kernel without it."""
    name, why = alternate.flag.upper(), kernel.ineligible[alternate.flag]
    if why and values.get(name) is True:
        raise ScheduleError(f"{kernel.role} has no {alternate.title}: {why}", remedy=f"Leave {name} out of schedule=.")


def check_alternates(schedule: ModuleSchedule, dims: Mapping[str, int], dtype: str, target: Target) -> None:
    """Check the head dims, dtype and target of the alternate kernels of a schedule.

    Raises:
        ScheduleError: one does not support them.
    """
    for flag in sorted(schedule.alternates):
        ALTERNATES[flag].check(dims, dtype, target)


def _check_names(where: str, given: Iterable[object], known: Iterable[str]) -> None:
    legal = sorted(set(known))
    unknown = [repr(name) for name in given if name not in legal]
    if unknown:
        raise ScheduleError(f"{where} has no value called {', '.join(unknown)}", remedy=f"Its values are {', '.join(legal)}.")


def _unknown_role(role: object, roles: Iterable[str]) -> ScheduleError:
    return ScheduleError(f"the module has no kernel called {role!r}", remedy=f"Its kernels are {', '.join(roles)}.")


def _form(roles: tuple[str, ...]) -> str:
    return f'Give {{"{roles[0]}": {{"num_warps": 8}}}} with roles from {", ".join(roles)}, or one dict of values for all kernels.'

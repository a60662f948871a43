"""Schedules: how large the tiles of a kernel are and with how many warps and stages it runs.

Gives frozen values that check themselves. A `TileSchedule` belongs to one kernel, a `ModuleSchedule` holds one for every role of a module.
Both have a text form that parses back, for keys and for `explain`. Nothing here knows what fits a target; `space` and `cost` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from attngen.errors import ScheduleError
from attngen.kernel.dense_rows import streamed_rows, unspecialised
from attngen.kernel.feature_tiles import tile_widths
from attngen.kernel.partition import Kernel
from attngen.kernel.prefetched_dots import prefetchable_dots
from attngen.targets.table import Target

BLOCKS = (16, 32, 64, 128, 256)
MERGED_ROWS = (1, 2, 4, 8)
"""Rows of a tile, besides `BLOCKS`, of a kernel that merges the states of parts: no matrix product asks for more."""
WARPS = (1, 2, 4, 8, 16)
STAGES = (1, 2, 3, 4, 5, 6)
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
WIDEST = 256
"""Columns of a product of the matrix unit, at most, where its layout is in the text."""
FIELDS = ("resident", "streamed", "num_warps", "num_stages")
FLAGS = ("pipe", "late", "tma", "specialised")
SPECIALISED = {"resident": 128, "num_warps": 8, "pipe": False, "late": False, "tma": True}
"""What the warp-specialised form has instead: two groups of four warps with 64 rows each."""
_LEGAL = {
    "resident": (*MERGED_ROWS, *BLOCKS),
    "streamed": BLOCKS,
    "num_warps": WARPS,
    "num_stages": STAGES,
    **dict.fromkeys(FLAGS, (False, True)),
}
_TEXT = re.compile(
    r"(?P<resident>\d+)(?:x(?P<streamed>\d+))?,w(?P<num_warps>\d+),s(?P<num_stages>\d+)(?P<pipe>,pipe(?P<late>,late)?)?(?P<tma>,tma)?"
    r"(?P<specialised>,specialised)?"
)


@dataclass(frozen=True, slots=True)
class TileSchedule:
    """Tile extents in positions, `streamed` None for a kernel without a stream, and the form of the kernel: `pipe` forms the products of
    the next tile beside the weights of this one, `late` those behind its maximum, `tma` fetches tiles by descriptors; `specialised` divides
    the warps into those that fetch and those that compute, of which `num_warps` are the latter. `str` gives "128x64,w8,s2,pipe,tma"."""

    resident: int
    streamed: int | None
    num_warps: int
    num_stages: int
    pipe: bool = False
    late: bool = False
    tma: bool = False
    specialised: bool = False

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
            raise ScheduleError("late=True says where products of the next tile are formed, and without pipe none are", remedy="Set both.")
        wrong = [f"{field}={getattr(self, field)}" for field, value in SPECIALISED.items() if getattr(self, field) != value]
        if self.specialised and wrong:
            legal = ", ".join(f"{field}={value}" for field, value in SPECIALISED.items())
            raise ScheduleError(f"specialised=True does not go with {', '.join(wrong)}", remedy=f"That form has {legal}.")

    def __str__(self) -> str:
        tile = f"{self.resident}" if self.streamed is None else f"{self.resident}x{self.streamed}"
        return f"{tile},w{self.num_warps},s{self.num_stages}" + "".join(f",{flag}" for flag in FLAGS if getattr(self, flag))


def _is_legal(field: str, value: object) -> bool:
    """A bool is an int to Python, and True is no number of warps."""
    return type(value) is (bool if field in FLAGS else int) and value in _LEGAL[field]


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
    def specialised(self) -> bool:
        """Whether some kernel has that form."""
        return any(tile.specialised for _, tile in self.tiles)

    def replace(self, changes: Mapping[str, TileSchedule]) -> ModuleSchedule:
        """The schedule with other tiles for some roles."""
        for role in changes:
            self[role]
        return ModuleSchedule(tuple((role, changes.get(role, tile)) for role, tile in self.tiles))

    def as_tiles(self, kernels: Iterable[Kernel]) -> dict[str, dict[str, int]]:
        """What the host functions of an emitted module take as `tiles`.

        Args:
            kernels: the module's kernels; their axes name the blocks.

        Returns:
            For each role `BLOCK_<RESIDENT AXIS>`, `BLOCK_<STREAMED AXIS>` (positions), `num_warps`, `num_stages`, and `PIPE`, `LATE`,
            `TMA` and `SPECIALISED` where they are set.
        """
        return {kernel.role: _launch_values(kernel, self[kernel.role]) for kernel in kernels}


def _launch_values(kernel: Kernel, tile: TileSchedule) -> dict[str, int]:
    values = {f"BLOCK_{kernel.resident.upper()}": tile.resident}
    if kernel.streamed is not None:
        if tile.streamed is None:
            raise ScheduleError(f"the kernel {kernel.role} streams {kernel.streamed}, but its schedule {tile} has no streamed block")
        values[f"BLOCK_{kernel.streamed.upper()}"] = tile.streamed
    flags = {field.upper(): True for field in FLAGS if getattr(tile, field)}
    return {**values, "num_warps": tile.num_warps, "num_stages": tile.num_stages, **flags}


def parse_tile(text: str) -> TileSchedule:
    """Read "128x64,w8,s2" (or "128,w4,s1" without a stream) back.

    Raises:
        ScheduleError: the text has another form or an illegal value.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ScheduleError(f"{text!r} is not the text of a schedule", remedy='It looks like "128x64,w8,s2": tile, warps, stages.')
    streamed = found["streamed"]
    return TileSchedule(
        int(found["resident"]),
        None if streamed is None else int(streamed),
        int(found["num_warps"]),
        int(found["num_stages"]),
        *(found[flag] is not None for flag in FLAGS),
    )


def parse_schedule(text: str) -> ModuleSchedule:
    """Read the text of a `ModuleSchedule` back.

    Raises:
        ScheduleError: the text has another form or an illegal value.
    """
    pairs = [item.partition("=") for item in text.split()]
    if any(not middle for _, middle, _ in pairs):
        raise ScheduleError(f"{text!r} is not the text of a schedule", remedy='It looks like "forward=128x64,w8,s2 backward_rows=...".')
    return ModuleSchedule(tuple((role, parse_tile(tile)) for role, _, tile in pairs))


# ---- what a user may override


def override(chosen: ModuleSchedule, kernels: Iterable[Kernel], given: object) -> ModuleSchedule:
    """Put a user's `schedule=` over a choice.

    Args:
        chosen: what stands where the user says nothing.
        kernels: the module's kernels.
        given: role -> values, or values for all kernels at once. Values are `BLOCK_M`-like names of the kernel's own axes,
            `num_warps`, `num_stages`, and `PIPE`, `LATE`, `TMA` and `SPECIALISED` of kernels that have these forms, False of all others;
            those left out stay as chosen, but that `LATE` goes with `PIPE`, and `SPECIALISED` brings what it needs.

    Raises:
        ScheduleError: an unknown role or name, an illegal value; the message lists the legal ones.
    """
    kernels = tuple(kernels)
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
    if all(unspecialised(kernel) for kernel in kernels):
        _refuse_specialised(kernels[0], values)
    known = {name for kernel in kernels for name in _names(kernel)}
    values = {name: value for name, value in values.items() if name in known or not _is_plain(name, value)}
    _check_names("schedule=", values, known)
    for kernel in kernels:
        mine = {name: value for name, value in values.items() if name in _names(kernel)}
        changes[kernel.role] = _changed(kernel, chosen[kernel.role], mine)
    return chosen.replace(changes)


def check_roles(given: object, roles: Iterable[str]) -> None:
    """Refuse what no kernel of a variant is called, before any is built.

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


def _names(kernel: Kernel) -> dict[str, str]:
    """Legal names of a kernel's values, and the fields they set."""
    names = {f"BLOCK_{kernel.resident.upper()}": "resident"}
    if kernel.streamed is not None:
        names[f"BLOCK_{kernel.streamed.upper()}"] = "streamed"
    flags = {field.upper(): field for field in forms(kernel)}
    return {**names, "num_warps": "num_warps", "num_stages": "num_stages", **flags}


def forms(kernel: Kernel) -> tuple[str, ...]:
    """The flags that a kernel knows: `pipe` where products can go ahead, `late` where a maximum is taken of them, `tma` where whole rows
    of matrices stream, `specialised` for a forward whose products are of such rows."""
    prefetched, rows = prefetchable_dots(kernel), streamed_rows(kernel)
    known = {"pipe": prefetched, "late": prefetched and kernel.gauges, "tma": rows, "specialised": not unspecialised(kernel)}
    return tuple(flag for flag in FLAGS if known[flag])


def _changed(kernel: Kernel, tile: TileSchedule, values: Mapping[object, object]) -> TileSchedule:
    names = _names(kernel)
    _refuse_specialised(kernel, values)
    values = {name: value for name, value in values.items() if name in names or not _is_plain(name, value)}
    _check_names(f"the schedule of {kernel.role}", values, names)
    fields: dict[str, Any] = {field: getattr(tile, field) for field in (*FIELDS, *FLAGS)}
    for name, value in values.items():
        field = names[str(name)]
        legal = BLOCKS if field == "resident" and not kernel.combines_splits else _LEGAL[field]
        if not _is_legal(field, value) or value not in legal:
            raise ScheduleError(
                f"the schedule of {kernel.role} sets {name}={value!r}",
                remedy=f"{name} is one of {', '.join(map(str, legal))}.",
            )
        fields[field] = value
    if fields["specialised"]:
        fields |= {field: value for field, value in SPECIALISED.items() if field not in {names[str(name)] for name in values}}
    fields["late"] = fields["late"] and (fields["pipe"] or values.get("LATE") is True)
    return TileSchedule(**fields)


def _is_plain(name: object, value: object) -> bool:
    """Whether a value asks for the plain form, which a kernel without another one has."""
    return value is False and name in {flag.upper() for flag in FLAGS}


def _refuse_specialised(kernel: Kernel, values: Mapping[object, object]) -> None:
    """Say why a kernel has no warp-specialised form, if it is asked for."""
    why = unspecialised(kernel)
    if why and values.get("SPECIALISED") is True:
        raise ScheduleError(f"{kernel.role} has no warp-specialised form: {why}", remedy="Leave SPECIALISED out of schedule=.")


def check_specialised(schedule: ModuleSchedule, dims: Mapping[str, int], dtype: str, target: Target) -> None:
    """Hold the warp-specialised form against what it shall run with.

    Raises:
        ScheduleError: its products are those of another target, of two-byte elements only, or narrower.
    """
    wide = max((tile_widths(length)[0] for length in dims.values()), default=0)
    if schedule.specialised and wide > WIDEST:
        remedy = "Leave SPECIALISED out of schedule= for them."
        raise ScheduleError(f"SPECIALISED multiplies tiles of up to {WIDEST} columns, and one of {wide} is asked for", remedy=remedy)
    if schedule.specialised and (target.matrix_unit != "wgmma" or DTYPE_BYTES[dtype] != 2):
        remedy = "Leave SPECIALISED out of schedule= there."
        raise ScheduleError(f"SPECIALISED is a form for float16 and bfloat16 on sm90, not for {dtype} on {target.name}", remedy=remedy)


def _check_names(where: str, given: Iterable[object], known: Iterable[str]) -> None:
    legal = sorted(set(known))
    unknown = [repr(name) for name in given if name not in legal]
    if unknown:
        raise ScheduleError(f"{where} has no value called {', '.join(unknown)}", remedy=f"Its values are {', '.join(legal)}.")


def _unknown_role(role: object, roles: Iterable[str]) -> ScheduleError:
    return ScheduleError(f"the module has no kernel called {role!r}", remedy=f"Its kernels are {', '.join(roles)}.")


def _form(roles: tuple[str, ...]) -> str:
    return f'Give {{"{roles[0]}": {{"num_warps": 8}}}} with roles from {", ".join(roles)}, or one dict of values for all kernels.'

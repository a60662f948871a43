"""What equal variants share in a process, their analysed program and its kernels; and the rewrites that a user names."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from attngen.errors import ArgumentError, RewriteRefused
from attngen.ir.cascade import Cascade
from attngen.knobs import Knobs
from attngen.pipeline import REWRITES, Program, analyse
from attngen.runtime.handle import dtype_name
from attngen.runtime.kernels import Kernels
from attngen.runtime.options import Frozen, Options, roles, thaw
from attngen.schedule.tile_schedule import check_roles
from attngen.stages.observe import watching

_PROGRAMS: dict[tuple[object, ...], Program] = {}
_KERNELS: dict[tuple[str, Options, Knobs], Kernels] = {}
_LOCK = threading.Lock()


def rewrites_named(names: Iterable[str]) -> frozenset[str]:
    """Names of rewrites, as a set.

    Raises:
        ArgumentError: there is none of that name.
    """
    if isinstance(names, str):
        raise ArgumentError(f"the names of rewrites are {names!r}, which is one string", remedy=f"Pass a list: [{names!r}].")
    found = frozenset(names)
    for name in sorted(found - REWRITES.keys()):
        raise ArgumentError(f"there is no rewrite {name!r}", remedy=f"They are {', '.join(REWRITES)}.")
    return found


def check_required(kernels: Kernels, names: frozenset[str], dtype: object) -> None:
    """Refuse a variant to whose kernels for a dtype a rewrite that is asked for does not apply. Nothing is worked out for no names.

    Raises:
        RewriteRefused: with the reason at each step.
    """
    if not names:
        return
    kind = dtype_name(dtype)
    kernels.at(kind)
    told = dict(kernels.told[kind])
    for name in sorted(names):
        notes = told.get(name)
        if notes is None:
            why = f"it is left out, or not for {kind}"
        elif any(note.applied for note in notes):
            continue
        else:
            why = "; ".join(dict.fromkeys(f"not {note.step}, for {note.text}" for note in notes)) or "no step has its form"
        raise RewriteRefused(f"the rewrite {name} does not apply: {why}", remedy="Leave it out of `require`, or change what it names.")


def _program(cascade: Cascade, options: Options, knobs: Knobs) -> Program:
    """The analysed program of a cascade; equal cascades are analysed once."""
    key = (
        str(cascade),
        options.without,
        options.asked,
        options.gradients,
        options.divided,
        options.precise_delta,
        knobs.verify,
        knobs.dump,
    )
    if key not in _PROGRAMS:
        wanted = None if options.gradients else frozenset[str]()
        _PROGRAMS[key] = analyse(
            cascade,
            watching(knobs),
            wanted=wanted,
            without=options.without,
            asked=options.asked,
            divided=options.divided,
            precise_delta=options.precise_delta,
        )
    return _PROGRAMS[key]


def shared_kernels(cascade: Cascade, name: str, options: Options) -> Kernels:
    """The kernels of a cascade as the environment wants them; equal cascades share them."""
    knobs = Knobs.from_env()
    key = (str(cascade), options, knobs)
    with _LOCK:
        if key not in _KERNELS:
            _KERNELS[key] = Kernels(_program(cascade, options, knobs), name, options, knobs)
        return _KERNELS[key]


def check_schedule(schedule: Frozen | None, program: Program) -> None:
    """Refuse a user's frozen schedule of kernels that no form of a program has.

    Raises:
        ScheduleError: listing the roles of those that it has.
    """
    if schedule is not None:
        check_roles(thaw(schedule), roles(program))

"""Every environment variable that attngen reads: its name, type, default and meaning, in one table.

`Knobs.from_env` turns an environment into one frozen value, which is passed down; nothing else in attngen reads `os.environ` for settings.
A knob that changes emitted code is marked and enters the cache key (`code_knobs`). Options of one compilation are arguments of
`attngen.compile`, never knobs.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attngen.errors import InvalidKnob

_PREFIX = "ATTNGEN_"
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


class UnknownKnobWarning(UserWarning):
    """An environment variable has the prefix of a knob, but no knob's name."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One row of the table. `field` is the attribute of `Knobs`; `parse` raises ValueError for an illegal text."""

    variable: str
    field: str
    parse: Callable[[str], object]
    values: str
    meaning: str
    changes_code: bool = False


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


def _interpreter(text: str) -> bool:
    return text.strip().lower() == "triton" or _flag(text)


def _folder(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


TABLE: tuple[Knob, ...] = (
    Knob("ATTNGEN_CACHE_DIR", "cache_dir", _folder, "a folder", "Where compiled kernels are kept; by default the user's cache folder."),
    Knob("ATTNGEN_STRICT", "strict", _flag, "0 or 1", "Never compile at run time: a kernel that is not in the cache is an error."),
    Knob("ATTNGEN_VERIFY", "verify", _flag, "0 or 1", "Check the Form of what each step of the pipeline gives."),
    Knob("ATTNGEN_DUMP", "dump", _names, "step names, comma-separated", "Print the result of these steps of the pipeline to stderr."),
    Knob(
        "ATTNGEN_INTERPRET", "interpret", _interpreter, "triton, or 0", "Run kernels in Triton's interpreter, not in the CPU engine: slow."
    ),
)


@dataclass(frozen=True, slots=True)
class Knobs:
    """The settings of one process; the defaults are those of an empty environment. `TABLE` says what each one means."""

    cache_dir: Path | None = None
    strict: bool = False
    verify: bool = False
    dump: tuple[str, ...] = ()
    interpret: bool = False

    @staticmethod
    def from_env(env: Mapping[str, str] | None = None) -> Knobs:
        """The knobs set in `env`, by default in the environment of the process.

        Warns about variables that start with ATTNGEN_ and are not knobs, which are likely misspelt.

        Raises:
            InvalidKnob: a variable has an illegal value.
        """
        env = os.environ if env is None else env
        known = {knob.variable for knob in TABLE}
        for variable in sorted(env):
            if variable.startswith(_PREFIX) and variable not in known:
                warnings.warn(_unknown(variable), UnknownKnobWarning, stacklevel=2)
        settings = {knob.field: _parse(knob, env[knob.variable]) for knob in TABLE if knob.variable in env}
        return Knobs(**settings)  # pyright: ignore[reportArgumentType]


def code_knobs(knobs: Knobs) -> tuple[tuple[str, object], ...]:
    """Name and value of each knob that changes emitted code, in the order of the table: the part of the knobs in the cache key."""
    return tuple((knob.field, getattr(knobs, knob.field)) for knob in TABLE if knob.changes_code)


def _parse(knob: Knob, text: str) -> object:
    try:
        return knob.parse(text)
    except ValueError:
        raise InvalidKnob(f"{knob.variable} takes {knob.values}, got {text!r}", remedy=knob.meaning) from None


def _unknown(variable: str) -> str:
    names = [knob.variable for knob in TABLE]
    near = difflib.get_close_matches(variable, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{variable} is not a setting of attngen.{hint} Legal names: {', '.join(names)}."

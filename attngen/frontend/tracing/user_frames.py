"""User frames: the running line of the user's code, and the line an exception came from.

Frames inside attngen and torch are skipped; the innermost remaining frame is the user's. A place is a code object and an instruction
offset, which is cheap to record; columns are computed only for a step or an error.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

from attngen.source import SourceLoc

Place = tuple[CodeType, int]

_INSIDE = tuple(str(folder) + os.sep for folder in (Path(__file__).parents[2], Path(torch.__file__).parent))
# Exceptions raised in proxies are those of the user's objects.
_STANDING_IN = tuple(str(Path(__file__).parents[1] / "captures" / name) for name in ("proxies.py", "proxy_classes.py"))
_MACHINERY = (*_INSIDE, functools.__file__, "<frozen ")
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_user(code: CodeType) -> bool:
    return not code.co_filename.startswith(_MACHINERY)


def user_frame() -> FrameType | None:
    """The innermost running frame that is the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_user(frame.f_code):
        frame = frame.f_back
    return frame


def user_place() -> Place | None:
    """The current place in the user's code."""
    frame = user_frame()
    return None if frame is None else (frame.f_code, frame.f_lasti)


def place_of(traceback: TracebackType | None) -> Place | None:
    """The innermost user line of a traceback; a line of an installed library only where there is no other."""
    own: Place | None = None
    found: Place | None = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_user(code):
            found = (code, traceback.tb_lasti)
            own = own if code.co_filename.startswith(_LIBRARIES) else found
        traceback = traceback.tb_next
    return own or found


def is_internal(traceback: TracebackType | None) -> bool:
    """Whether an exception was raised in this package, not in the user's code or torch."""
    last: CodeType | None = None
    while traceback is not None:
        last = traceback.tb_frame.f_code
        traceback = traceback.tb_next
    return last is not None and last.co_filename.startswith(_INSIDE[0]) and last.co_filename not in _STANDING_IN


def assigned(place: Place | None) -> str:
    """The variable that the running call or operator is assigned to; "" where there is none."""
    if place is None:
        return ""
    code, offset = place
    steps = ((code.co_code[at], code.co_code[at + 1]) for at in range(offset + 2, len(code.co_code), 2))
    operation, argument = next((step for step in steps if dis.opname[step[0]] != "CACHE"), (0, 0))
    match dis.opname[operation]:
        case "STORE_FAST":
            return code.co_varnames[argument]
        case "STORE_FAST_STORE_FAST" | "STORE_FAST_LOAD_FAST":
            return code.co_varnames[argument >> 4]
        case "STORE_NAME" | "STORE_GLOBAL":
            return code.co_names[argument]
        case "STORE_DEREF":
            # Cell variables follow the locals, except that parameters are counted once.
            return (*code.co_varnames, *(name for name in code.co_cellvars if name not in code.co_varnames), *code.co_freevars)[argument]
        case _:
            return ""


def definition(code: CodeType) -> SourceLoc:
    """The `def` line of a function."""
    return SourceLoc(code.co_filename, code.co_firstlineno, code.co_name)


def locate(place: Place | None) -> SourceLoc | None:
    """The line and, where known, the columns of a place."""
    if place is None:
        return None
    code, offset = place
    line, end_line, column, end_column = next(islice(code.co_positions(), max(offset, 0) // 2, None), (None,) * 4)
    if line is None:
        return definition(code)
    loc = SourceLoc(code.co_filename, line, code.co_name)
    if column is None or end_column is None or end_line != line:
        return loc
    encoded = loc.text().encode()
    start, end = (len(encoded[:byte].decode(errors="replace")) for byte in (column, end_column))
    return SourceLoc(code.co_filename, line, code.co_name, start, end)

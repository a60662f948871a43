"""Tiles that a compiler failed on: it refused them, crashed, or ran out of memory.

Such a tile costs one attempt. It is remembered for the process and, in the cache, for those that follow, until the compiler changes;
choices pass over it and `explain` says why.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from attngen.cache.entry import Artefacts
from attngen.cache.key import request_key
from attngen.errors import CompileFailed
from attngen.knobs import Knobs
from attngen.pipeline import Program
from attngen.schedule.choose import Choice, Request
from attngen.schedule.tile_schedule import TileSchedule
from attngen.toolchain.artifact_store import store, toolchain

_log = logging.getLogger("attngen")
_FILE = "refused.txt"
_COMPILER = str(Path("triton", "compiler", "compiler.py"))
Failure = tuple[str, TileSchedule, str]
"""The role of a kernel, its tile, and what the compiler said."""


class Refusals:
    """What compilers failed on for the kernels of one program.

    Args:
        program: whose kernels they are.
        knobs: say where the cache is.
        stored: whether the cache counts; a product for other machines must not depend on it.
    """

    def __init__(self, program: Program, knobs: Knobs, stored: bool) -> None:
        self._program, self._knobs, self._stored = program, knobs, stored
        self._known: dict[tuple[Request, str, TileSchedule], str] = {}

    def why(self, request: Request, role: str, tile: TileSchedule) -> str:
        """Why a compiler failed on a tile of a kernel; "" where none is known to."""
        case = (request, role, tile)
        if case not in self._known:
            entry = store(self._knobs).try_load(self._key(request, refused=f"{role}={tile}")) if self._stored else None
            self._known[case] = "" if entry is None else entry.content(_FILE).decode()
        return self._known[case]

    def add(self, name: str, request: Request, failure: Failure, asked: tuple[str, ...] = ()) -> None:
        """Remember a failure of a kernel of the variant `name`, where a user asked for the tiles of some.

        Raises:
            CompileFailed: the tile is the user's, and no other takes its place.
        """
        role, tile, why = failure
        if role in asked:
            rule = f"the kernel {role} with {tile}, which schedule= asks for: {why}"
            raise CompileFailed(rule, remedy="Ask for another tile, or leave the choice to attngen.")
        _log.warning("attngen: %s of %s does without the tile %s: %s", role, name, tile, why.partition("\n")[0])
        self._known[request, role, tile] = why
        if self._stored:
            key = self._key(request, refused=f"{role}={tile}")
            store(self._knobs).build(key, lambda: Artefacts({_FILE: why.encode()}, {"kind": "refused tile"}))

    def settled_key(self, request: Request, choice: Choice) -> str:
        """Where what a compile made of a choice is stored."""
        fallbacks = ", ".join(str(reason.fallback) for reason in choice.reasons)
        return self._key(request, choice=f"{choice.schedule} or {fallbacks}")

    def _key(self, request: Request, **more: str) -> str:
        program = self._program
        gradients = ",".join(gradient.target for gradient in program.backward.gradients) if program.backward is not None else ""
        without, required = (",".join(sorted(names)) for names in (program.without, program.asked))
        asked = {"dims": str(request.dims), "dtype": request.dtype, "length": request.length, "gradients": gradients}
        asked |= {"delta": program.delta, "without": without, "asked": required, **more}
        asked |= {"float32": ",".join(request.singles)} if request.singles else {}
        return request_key(str(program.cascade), request.target.name, asked, toolchain(self._knobs))


def said(error: Exception) -> str:
    """What a compiler said of its failure, in one line: neither the command that it ran nor the code that it was given."""
    lines = [line.strip() for line in str(error).partition("Repro command")[0].splitlines()]
    words = [line for line in lines if line and not line.startswith(("`ptxas` stderr", "ptxas info"))]
    return "; ".join([*(words[:3] or [type(error).__name__])])


def failed_launch(error: Exception) -> tuple[str, str] | None:
    """The emitted function whose launch ended in the compiler, and what that said; None where anything else went wrong."""
    name, compiling = "", False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "launch" and "kernel" in frame.f_locals:
            name = getattr(frame.f_locals["kernel"], "__name__", "")
        compiling = compiling or (code.co_name in ("compile", "_init_handles") and code.co_filename.endswith(_COMPILER))
    return (name, said(error)) if name and compiling else None

"""Drops what no output needs.

Takes and gives a tile program. A statement is needed if it writes an output, or a needed one reads its value. A carried value is needed if
it is read, but not by what hands on itself alone; then so is what it becomes. A loop in which nothing is needed goes, with its masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attngen.ir.traverse import names_read
from attngen.tile.nodes import Loop, Scatter, Statement, Store, TileProgram
from attngen.tile.operands import names_of


def dead_code(program: TileProgram) -> TileProgram:
    """The program without statements and carried values that no output needs."""
    loop = program.loop
    sources = {item.name: names_of(item) for item in program.statements if not isinstance(item, Store | Scatter)}
    if loop is not None:
        sources |= {item.name: (*names_read(item.init), item.next) for item in loop.carried}
    needed = _closure((name for item in program.statements if isinstance(item, Store | Scatter) for name in names_of(item)), sources)
    if loop is not None and _live(loop.body, needed):
        needed |= _closure((loop.visited, *(name for piece in loop.bounds for name in piece)), sources)
        loop = _rest(loop, needed)
    else:
        loop = None
    return replace(program, prologue=_live(program.prologue, needed), loop=loop, epilogue=_live(program.epilogue, needed))


def _rest(loop: Loop, needed: set[str]) -> Loop:
    carried = tuple(item for item in loop.carried if item.name in needed)
    return replace(loop, carried=carried, masks=_live(loop.masks, needed), body=_live(loop.body, needed))


def _live(statements: tuple[Statement, ...], needed: set[str]) -> tuple[Statement, ...]:
    return tuple(item for item in statements if isinstance(item, Store | Scatter) or item.name in needed)


def _closure(names: Iterable[str], sources: dict[str, tuple[str, ...]]) -> set[str]:
    """Names, and all that they are made of."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(sources.get(name, ()))
    return found

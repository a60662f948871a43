"""Parses the printed text of a tile program.

    tile_program forward(q[b,m,d], k[b,n,d], v[b,n,e], slopes[...], window: int) -> o[b,m,e]
      tiles of m, in parallel over b
      q_value[b,m,d] = load q[b,m,d]
      for tiles of n: visits n in [0, last + 1), unmasked in [0, first + 1)
        bounds bound, bound_2, bound, bound_3
        carry acc[b,m,e] = 0.0 then acc_new
        visit where valid
        under masks: valid[m,n] = m >= n
        ...
      store o[b,m,e] = o_value

Kinds follow from bodies, tensors and operands; `first` and `last` are numbers. What the loop says of its ranges is for readers, the values
that count stand behind `bounds`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from attngen.analysis.affine import FIRST, LAST
from attngen.analysis.intervals import ZERO, Interval, MayMust
from attngen.analysis.kv_ranges import KvRanges
from attngen.errors import ParseError
from attngen.ir.expr import Expr, Kind, Read, kind_of
from attngen.ir.parser import parse_expr
from attngen.tile.nodes import Axes, Carry, Dot, Let, Load, Loop, Param, Reduce, Reduction, Scatter, Select, Statement, Store, TileProgram

_HEAD = re.compile(r"^tile_program (\w+)\((.*)\) -> (.*)$")
_GRID = re.compile(r"^tiles of (\w+), in parallel(?: over ((?:\w+, )*?\w+))??(?:, summed over ((?:\w+, )*?\w+))??(?:, split by (\w+))?$")
_PARAM = re.compile(r"^(\w+)(?:\[([\w,]*|\.\.\.)\])?(?:: (int|bool))?$")
_LOOP = re.compile(r"^for tiles of (\w+): (.*)$")
_CARRY = re.compile(r"^carry (\w+)(?:\[([\w,]*)\])? = (.*) then (\w+)$")
_VALUE = re.compile(r"^(\w+)(?:\[([\w,]*)\])? = (.*)$")
_LOAD = re.compile(r"^load (\w+(?:\[.*\])?)$")
_DOT = re.compile(r"^dot\[([\w,]*)\] (\w+), (\w+)(?: \+ (\w+))?$")
_REDUCE = re.compile(r"^(sum|max|min|any)\[([\w,]*)\] (\w+)$")
_SELECT = re.compile(r"^select (\w+) where (\w+) else (\S+)$")
_STORE = re.compile(r"^(store|add) (\w+)(?:\[([\w,]*)\])? = (\w+)$")
_SCATTER = re.compile(
    r"^scatter (\w+)(?:\[([\w,]*)\])? = (\w+) to (\w+(?:\[.*\])?)(?: where (\w+))? "
    r"\((stored|diagonals|sorted)(?:, keys ([\d ]+))?(?:, columns ([\w ]+))?\)$"
)


def parse_program(text: str) -> TileProgram:
    """The tile program that `print_program` would print as `text`.

    Raises:
        ParseError: the text does not follow the grammar, or names something unknown.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    head, grid = (_HEAD.match(lines[0]), _GRID.match(lines[1].strip())) if len(lines) > 1 else (None, None)
    if head is None or grid is None:
        raise ParseError("a tile program starts with 'tile_program role(inputs) -> outputs' and 'tiles of axis, in parallel'")
    params = (*_params(head[2], output=False), *_params(head[3], output=True))
    scope = _Scope(params)
    margin = min(len(line) - len(line.lstrip()) for line in lines[1:])
    before, inside, after = _sections([line[margin:].rstrip() for line in lines[2:]])
    prologue = tuple(map(scope.statement, before))
    loop = scope.loop(inside) if inside else None
    epilogue = tuple(map(scope.statement, after))
    return TileProgram(head[1], params, grid[1], _listed(grid[2]), _listed(grid[3]), prologue, loop, epilogue, grid[4] or "")


def _sections(lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Lines before the loop, those of the loop, and those after it. Without a loop, the epilogue begins with the first output."""
    start = next((i for i, line in enumerate(lines) if _LOOP.match(line)), None)
    if start is None:
        start = next((i for i, line in enumerate(lines) if _STORE.match(line)), len(lines))
        return lines[:start], [], lines[start:]
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return lines[:start], [line.strip() for line in lines[start:end]], lines[end:]


def _params(text: str, *, output: bool) -> Iterator[Param]:
    for part in text.split(", ") if text else ():
        match = _PARAM.match(part)
        if match is None:
            raise ParseError(f"not a parameter: {part!r}")
        name, axes, kind = match.groups()
        own = None if axes in (None, "...") else _names(axes)
        yield Param(name, own, cast("Kind", kind or "float"), number=axes is None, output=output)


class _Scope:
    """The kinds of the parameters and of the values so far."""

    def __init__(self, params: tuple[Param, ...]) -> None:
        numbers: dict[str, Kind] = {FIRST.tensor: "int", LAST.tensor: "int"}
        self.kinds: dict[str, Kind] = {**numbers, **{item.name: item.kind for item in params if not item.output}}

    def expr(self, text: str) -> Expr:
        return parse_expr(text, self.kinds)

    def element(self, text: str) -> Read:
        """A tensor at positions."""
        found = self.expr(text)
        if not isinstance(found, Read):
            raise ParseError(f"not an element of a tensor: {text!r}")
        return found

    def kind(self, name: str) -> Kind:
        if name not in self.kinds:
            raise ParseError(f"unknown value {name!r}")
        return self.kinds[name]

    # ---- the loop

    def loop(self, lines: list[str]) -> Loop:
        head = _LOOP.match(lines[0])
        assert head is not None
        ranges = KvRanges(head[1], tuple(self.pieces(head[2])))
        rest = lines[1:]
        bounds = tuple(_listed(line.removeprefix("bounds ")) for line in rest if line.startswith("bounds "))
        rest = rest[len(bounds) :]
        carried = tuple(self.carry(line) for line in rest if line.startswith("carry "))
        rest = rest[len(carried) :]
        visited = rest.pop(0).removeprefix("visit where ") if rest and rest[0].startswith("visit where ") else ""
        masks: list[Statement] = []
        while rest and rest[0].startswith("under masks: "):
            masks.append(self.statement(rest.pop(0).removeprefix("under masks: ")))
        return Loop(head[1], ranges, bounds, visited, carried, tuple(masks), tuple(map(self.statement, rest)))

    def pieces(self, text: str) -> Iterator[MayMust]:
        """Pieces of ranges from what `describe` says of them."""
        if text == "everything":
            return
        visited, colon, unmasked = text.partition(", unmasked in ")
        may = [Interval(*map(self.expr, bounds)) for bounds in _bounds(visited)]
        must = [Interval(*map(self.expr, bounds)) for bounds in _bounds(unmasked)]
        if not may or not (colon or visited.endswith((", nothing masked", ", all of it masked"))):
            raise ParseError(f"not a description of ranges: {text!r}")
        nothing = Interval(ZERO, ZERO)
        must = may if visited.endswith(", nothing masked") else [*must, *[nothing] * (len(may) - len(must))]
        yield from map(MayMust, may, must)

    def carry(self, line: str) -> Carry:
        match = _CARRY.match(line)
        if match is None:
            raise ParseError(f"not a carried value: {line!r}")
        init = self.expr(match[3])
        self.kinds[match[1]] = kind_of(init)
        return Carry(match[1], _names(match[2]), init, match[4], kind_of(init))

    # ---- statements

    def statement(self, line: str) -> Statement:
        if match := _STORE.match(line):
            return Store(match[2], _names(match[3]), match[4], match[1] == "add")
        if match := _SCATTER.match(line):
            element = self.element(match[4])
            keys = tuple(map(int, (match[7] or "").split()))
            form = "stored" if match[6] == "stored" else "diagonals" if match[6] == "diagonals" else "sorted"
            columns = tuple((match[8] or "").split())
            return Scatter(match[1], element.tensor, _names(match[2]), match[3], element.at, form, match[5] or "", keys, columns)
        if match := _VALUE.match(line):
            found = self.value(match[1], _names(match[2]), match[3])
            self.kinds[found.name] = found.kind
            return found
        raise ParseError(f"not a statement: {line!r}")

    def value(self, name: str, axes: Axes, text: str) -> Let | Load | Dot | Reduce | Select:
        if match := _LOAD.match(text):
            element = self.element(match[1])
            return Load(name, axes, element.tensor, element.at, element.kind)
        if match := _DOT.match(text):
            return Dot(name, axes, match[2], match[3], _names(match[1]), match[4] or "")
        if match := _REDUCE.match(text):
            return Reduce(name, axes, cast("Reduction", match[1]), match[3], _names(match[2]), self.kind(match[3]))
        if match := _SELECT.match(text):
            return Select(name, axes, match[1], match[2], float(match[3]), self.kind(match[1]))
        body = self.expr(text)
        return Let(name, axes, body, kind_of(body))


def _bounds(text: str) -> Iterator[tuple[str, str]]:
    """The bounds of each `[lo, hi)` of a text."""
    depth, start, comma = 0, 0, 0
    for i, letter in enumerate(text):
        if letter in "[(":
            start, depth = (i if depth == 0 else start), depth + 1
        elif letter in "])":
            depth -= 1
            if depth == 0:
                yield text[start + 1 : comma], text[comma + 1 : i].strip()
        elif letter == "," and depth == 1:
            comma = i


def _names(text: str | None) -> Axes:
    return tuple(name for name in (text or "").split(",") if name)


def _listed(text: str | None) -> Axes:
    return tuple(name for name in (text or "").split(", ") if name)

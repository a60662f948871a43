"""The text of a tile program, for `explain`, tests and readers; `parser` reads it back."""

from __future__ import annotations

from collections.abc import Iterator

from attngen.analysis.kv_ranges import describe
from attngen.ir.printer import print_expr
from attngen.tile.nodes import Dot, Let, Load, Loop, Param, Reduce, Scatter, Select, Statement, Store, TileProgram


def print_program(program: TileProgram) -> str:
    """One line a statement, loops indented."""
    return "\n".join(_lines(program))


def _lines(program: TileProgram) -> Iterator[str]:
    inputs = ", ".join(_param(item) for item in program.params if not item.output)
    outputs = ", ".join(_param(item) for item in program.params if item.output)
    yield f"tile_program {program.role}({inputs}) -> {outputs}"
    over = f" over {', '.join(program.grid)}" if program.grid else ""
    summed = f", summed over {', '.join(program.summed)}" if program.summed else ""
    split = f", split by {program.split}" if program.split else ""
    yield f"  tiles of {program.parallel}, in parallel{over}{summed}{split}"
    yield from (f"  {print_statement(item)}" for item in program.prologue)
    if program.loop is not None:
        yield from (f"  {line}" for line in _loop(program.loop))
    yield from (f"  {print_statement(item)}" for item in program.epilogue)


def _loop(loop: Loop) -> Iterator[str]:
    yield f"for tiles of {loop.axis}: {describe(loop.ranges) if loop.ranges.pieces else 'everything'}"
    yield from (f"  bounds {', '.join(piece)}" for piece in loop.bounds)
    for item in loop.carried:
        yield f"  carry {_value(item.name, item.axes)} = {print_expr(item.init)} then {item.next}"
    if loop.visited:
        yield f"  visit where {loop.visited}"
    yield from (f"  under masks: {print_statement(item)}" for item in loop.masks)
    yield from (f"  {print_statement(item)}" for item in loop.body)


def print_statement(item: Statement) -> str:
    """One statement."""
    match item:
        case Let(name=name, axes=axes, body=body):
            return f"{_value(name, axes)} = {print_expr(body)}"
        case Load(name=name, axes=axes, tensor=tensor, at=at):
            return f"{_value(name, axes)} = load {tensor}{_at(map(print_expr, at))}"
        case Dot(name=name, axes=axes, left=left, right=right, over=over, add=add):
            return f"{_value(name, axes)} = dot[{','.join(over)}] {left}, {right}{f' + {add}' if add else ''}"
        case Reduce(name=name, axes=axes, op=op, value=value, over=over):
            return f"{_value(name, axes)} = {op}[{','.join(over)}] {value}"
        case Select(name=name, axes=axes, value=value, mask=mask, missing=missing):
            return f"{_value(name, axes)} = select {value} where {mask} else {missing}"
        case Store(tensor=tensor, axes=axes, value=value, adds=adds):
            return f"{'add' if adds else 'store'} {_value(tensor, axes)} = {value}"
        case Scatter():
            return _scatter(item)


def _scatter(item: Scatter) -> str:
    where = f" where {item.mask}" if item.mask else ""
    keys = f", keys {' '.join(map(str, item.keys))}" if item.keys else ""
    columns = f", columns {' '.join(item.column_axes)}" if item.column_axes else ""
    to = f"{item.target}{_at(map(print_expr, item.at))}"
    return f"scatter {_value(item.tensor, item.axes)} = {item.value} to {to}{where} ({item.form}{keys}{columns})"


def _value(name: str, axes: tuple[str, ...]) -> str:
    return f"{name}{_at(axes)}"


def _at(parts: Iterator[str] | tuple[str, ...]) -> str:
    text = ",".join(parts)
    return f"[{text}]" if text else ""


def _param(item: Param) -> str:
    """`q[b,m,d]`, `slopes[...]` for what is indexed freely, and `window: int` for a number."""
    axes = "" if item.number else "[...]" if item.axes is None else f"[{','.join(item.axes)}]"
    return f"{item.name}{axes}{'' if item.kind == 'float' else f': {item.kind}'}"

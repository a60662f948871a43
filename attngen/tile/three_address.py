"""Three-address form: every `Let` is one operation on values, numbers, lengths and positions. Equal operations are computed once, and what
does not change from one iteration to the next before the loop.

    x = s * extent(d) ** -0.5 + slope * (n - m)      x_1 = extent(d) ** -0.5     before the loop
                                                     x_2 = s * x_1
                                                     x_3 = n - m
                                                     ...
"""

from __future__ import annotations

from dataclasses import replace

from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index, Offset, Read, Start, kind_of
from attngen.ir.traverse import children, free_axes, names_read, with_children
from attngen.tile.nodes import Axes, Let, Load, Loop, Scatter, Statement, TileProgram


def three_address(program: TileProgram) -> TileProgram:
    """Takes a tile program whose expressions may be of any size, gives one whose `Let`s are single operations.

    Reads of numbers, constants, lengths and positions stay where they are. Positions of loads and scatters become values.
    """
    return _Splitter(program).run()


class _Splitter:
    def __init__(self, program: TileProgram) -> None:
        self.program = program
        self.taken = {item.name for item in program.params} | {getattr(item, "name", "") for item in program.statements}
        loop = program.loop
        self.moving = {carry.name for carry in loop.carried} if loop is not None else set[str]()
        self.known: dict[tuple[str, Expr], Read] = {}
        self.prologue: list[Statement] = []
        self.section: tuple[str, list[Statement]] = ("before", self.prologue)
        self.axis = loop.axis if loop is not None else ""
        self.order = tuple(dict.fromkeys(axis for item in program.statements for axis in getattr(item, "axes", ())))

    def run(self) -> TileProgram:
        program, loop = self.program, self.program.loop
        self.part("before", program.prologue)
        if loop is None:
            after = self.part("after", program.epilogue)
            return replace(program, prologue=tuple(self.prologue), epilogue=after)
        carried = tuple(replace(carry, init=self.operand(carry.init, carry.name)) for carry in loop.carried)
        masks = self.part("masks", loop.masks)
        body = self.part("inside", loop.body)
        whole: Loop = replace(loop, carried=carried, masks=masks, body=body)
        return replace(program, loop=whole, epilogue=self.part("after", program.epilogue), prologue=tuple(self.prologue))

    def part(self, name: str, statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
        """The statements of one section."""
        found = self.prologue if name == "before" else list[Statement]()
        self.section = name, found
        for item in statements:
            if name in ("masks", "inside") and not isinstance(item, Scatter):
                self.moving.add(getattr(item, "name", ""))
            found.append(self.statement(item))
        return tuple(found)

    def statement(self, item: Statement) -> Statement:
        match item:
            case Let(body=Apply(args=args) as body):
                whole = with_children(body, tuple(self.operand(arg, item.name) for arg in args))
                return replace(item, body=whole)
            case Load() | Scatter():
                return replace(item, at=tuple(self.operand(position, item.tensor) for position in item.at))
            case _:
                return item

    def operand(self, expr: Expr, name: str) -> Expr:
        """An expression as an operand: itself, or the value of its operation."""
        if not isinstance(expr, Apply):
            return expr
        done: dict[int, Expr] = {}

        def visit(node: Expr) -> Expr:
            if not isinstance(node, Apply):
                return node
            if id(node) not in done:
                done[id(node)] = self.operation(with_children(node, tuple(visit(child) for child in children(node))), name)
            return done[id(node)]

        return visit(expr)

    def operation(self, node: Expr, name: str) -> Expr:
        section, found = self.section
        if section in ("masks", "inside") and not self.moves(node):
            section, found = "before", self.prologue
        for where in ("before", section):
            if (where, node) in self.known:
                return self.known[where, node]
        axes = self.ordered(node)
        fresh = self.fresh(name)
        found.append(Let(fresh, axes, node, kind_of(node)))
        if section in ("masks", "inside"):
            self.moving.add(fresh)
        self.known[section, node] = build.read(fresh, axes, kind_of(node))
        return self.known[section, node]

    def moves(self, node: Expr) -> bool:
        """Whether a value may be another one in the next iteration."""
        here = [child for child in (node, *children(node)) if isinstance(child, Index | Offset | Start)]
        return any(child.axis == self.axis for child in here) or bool(self.moving & set(names_read(node)))

    def ordered(self, node: Expr) -> Axes:
        """The axes of an operation: in the order of the operand that has all of them, else of the program."""
        axes = free_axes(node)
        whole = next((free_axes(child) for child in children(node) if set(free_axes(child)) == set(axes)), None)
        return whole or tuple(sorted(axes, key=lambda axis: self.order.index(axis) if axis in self.order else len(self.order)))

    def fresh(self, base: str) -> str:
        number = 1
        while f"{base}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{base}_{number}")
        return f"{base}_{number}"

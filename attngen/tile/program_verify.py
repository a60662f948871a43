"""The form of a tile program, which every pass and printer relies on. What breaks a rule is a bug of attngen.

A name is assigned once. A value is read after its statement: one of the prologue anywhere, one of the loop inside of it, a carried one
inside and after it. Axes follow from operands; an expression reads values at their own axes. What `Loop.masks` assigns decides about
elements and is no operand otherwise, for it does not exist in FULL tiles. Each output is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attngen.analysis.affine import FIRST, LAST
from attngen.errors import InternalError
from attngen.ir.expr import Expr, Index, Kind, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, reads
from attngen.tile.nodes import Axes, Carry, Dot, Let, Load, Loop, Param, Reduce, Scatter, Select, Statement, Store, TileProgram
from attngen.tile.operands import exprs, names_of, operands
from attngen.tile.program_text import print_statement


def verify(program: TileProgram) -> TileProgram:
    """Check the form of a program; gives the program unchanged.

    Raises:
        InternalError: a rule is broken; the message has the rule, the statement and the role.
    """
    _Check(program, {item.name: item for item in program.params}).run()
    return program


@dataclass(slots=True)
class _Check:
    """Walks over the statements in order. `known` are the values in scope, `masks` those that only decide about elements."""

    program: TileProgram
    params: dict[str, Param]
    known: dict[str, tuple[Axes, Kind]] = field(default_factory=dict[str, "tuple[Axes, Kind]"])
    taken: set[str] = field(default_factory=set[str])
    masks: set[str] = field(default_factory=set[str])
    written: set[str] = field(default_factory=set[str])

    def run(self) -> None:
        program = self.program
        self.taken |= {*self.params, FIRST.tensor, LAST.tensor}
        self.all(program.prologue)
        if program.loop is not None:
            self.loop(program.loop)
        self.all(program.epilogue)
        for name, item in self.params.items():
            if item.output and name not in self.written:
                raise self.broken(f"the output {name} is never written")

    def broken(self, rule: str, item: Statement | Carry | None = None) -> InternalError:
        place = f"in the tile program {self.program.role}"
        if item is None:
            return InternalError(f"{rule}, {place}")
        text = f"carry {item.name} = {print_expr(item.init)} then {item.next}" if isinstance(item, Carry) else print_statement(item)
        return InternalError(f"{rule}, {place}, in\n    {text}")

    # ---- scopes

    def assign(self, item: Let | Load | Dot | Reduce | Select | Carry) -> None:
        if item.name in self.taken:
            raise self.broken(f"{item.name} is assigned twice", item)
        if len(set(item.axes)) != len(item.axes):
            raise self.broken(f"{item.name} has an axis twice", item)
        self.taken.add(item.name)
        self.known[item.name] = item.axes, item.kind

    def loop(self, loop: Loop) -> None:
        for name in (name for piece in loop.bounds for name in piece):
            self.bound(name, loop)
        for item in loop.carried:
            self.carry(item)
        outside = dict(self.known)
        self.all(loop.masks, masks=True)
        if loop.visited and loop.visited not in self.masks:
            raise self.broken(f"the tiles visited are told by {loop.visited}, which is none of the masks")
        if loop.visited:
            self.truth(loop.visited)
        inside = set(self.known)
        self.all(loop.body)
        for item in loop.carried:
            if item.next not in self.known or item.next in inside:
                raise self.broken(f"{item.next}, the next {item.name}, is not assigned in the body of the loop", item)
            self.same(item.kind, self.known[item.next][1], item)
            self.within(self.known[item.next][0], item.axes, item.next, item)
        self.known = outside

    def bound(self, name: str, loop: Loop) -> None:
        if name not in self.known:
            raise self.broken(f"{name} bounds the loop, and is not known before it")
        axes, kind = self.known[name]
        if kind != "int" or {loop.axis, self.program.parallel} & {*axes}:
            raise self.broken(f"{name} bounds the loop, and is not one integer a tile")

    def carry(self, item: Carry) -> None:
        self.expression(item.init, item.axes, item)
        self.same(item.kind, kind_of(item.init), item)
        self.moving(item.axes, item)
        self.assign(item)

    def moving(self, axes: Axes, item: Statement | Carry) -> None:
        loop = self.program.loop
        if loop is not None and loop.axis in axes:
            raise self.broken(f"what is known outside of the loop does not vary along {loop.axis}", item)

    def all(self, statements: Iterable[Statement], *, masks: bool = False) -> None:
        loop = self.program.loop
        inside = loop is not None and (statements is loop.masks or statements is loop.body)
        for item in statements:
            for name in names_of(item):
                self.readable(name, item, masks)
            if not inside:
                self.moving(item.axes, item)
            self.statement(item)
            if isinstance(item, Store | Scatter):
                if masks:
                    raise self.broken("a mask is a value", item)
                self.write(item)
            else:
                self.assign(item)
                if masks:
                    self.masks.add(item.name)

    def readable(self, name: str, item: Statement, masks: bool) -> None:
        """A value in scope; a mask is read by masks, and as that of a statement that has one."""
        if name not in self.known and name not in self.params and name not in (FIRST.tensor, LAST.tensor):
            raise self.broken(f"{name} is {'read where it is not known' if name in self.taken else 'read before it is assigned'}", item)
        if name in self.masks and not masks:
            others = [operand for operand in operands(item)[: -1 if isinstance(item, Select | Scatter) and item.mask else None]]
            computed = [read.tensor for expr in exprs(item) for read in reads(expr)]
            if name in others or name in computed:
                raise self.broken(f"the mask {name} is an operand, which FULL tiles do not have", item)

    # ---- statements

    def statement(self, item: Statement) -> None:
        for name in operands(item):
            if name not in self.known:
                raise self.broken(f"{name} is a parameter, and no value", item)
        for expr in exprs(item):
            self.expression(expr, item.axes, item)
        match item:
            case Let(kind=kind, body=body):
                self.same(kind, kind_of(body), item)
            case Load():
                self.load(item)
            case Dot():
                self.dot(item)
            case Reduce():
                self.reduce(item)
            case Select(value=value, mask=mask, axes=axes, kind=kind):
                self.truth(mask, item)
                self.same(kind, self.known[value][1], item)
                self.exactly({*self.known[value][0], *self.known[mask][0]}, axes, item)
            case Scatter():
                self.scatter(item)
            case Store(value=value, axes=axes):
                self.within(self.known[value][0], axes, value, item)

    def load(self, item: Load) -> None:
        param = self.params.get(item.tensor)
        if param is None or param.output or param.number:
            raise self.broken(f"{item.tensor} is no tensor of the inputs", item)
        self.same(item.kind, param.kind, item)
        if param.axes is not None and len(param.axes) != len(item.at):
            raise self.broken(f"{item.tensor} has {len(param.axes)} dimensions", item)
        self.positions(item.at, item)
        self.exactly({axis for position in item.at for axis in free_axes(position)}, item.axes, item)

    def dot(self, item: Dot) -> None:
        left, right = self.known[item.left], self.known[item.right]
        for name, (axes, kind) in ((item.left, left), (item.right, right)):
            self.same("float", kind, item)
            self.within(item.over, axes, "the sum", item, f"the axes of {name}")
        self.exactly({*left[0], *right[0]} - {*item.over}, item.axes, item)
        if item.add:
            self.same("float", self.known[item.add][1], item)
            self.within(self.known[item.add][0], item.axes, item.add, item)

    def reduce(self, item: Reduce) -> None:
        axes, kind = self.known[item.value]
        if (kind == "bool") != (item.op == "any"):
            raise self.broken(f"{item.op} of {kind} values", item)
        self.same(item.kind, kind, item)
        self.within(item.over, axes, "the reduction", item, f"the axes of {item.value}")
        self.exactly({*axes} - {*item.over}, item.axes, item)

    def scatter(self, item: Scatter) -> None:
        target = self.params.get(item.target)
        if target is None or target.output:
            raise self.broken(f"{item.target} is no tensor of the inputs", item)
        self.positions(item.at, item)
        self.within(self.known[item.value][0], item.axes, item.value, item)
        if item.mask:
            self.truth(item.mask, item)
            self.within(self.known[item.mask][0], item.axes, item.mask, item)

    def write(self, item: Store | Scatter) -> None:
        param = self.params.get(item.tensor)
        if param is None or not param.output:
            raise self.broken(f"{item.tensor} is no output", item)
        if isinstance(item, Store):
            self.exactly({*(param.axes or ())}, item.axes, item)
            if item.tensor in self.written and not item.adds:
                raise self.broken(f"{item.tensor} is stored twice", item)
        self.written.add(item.tensor)

    # ---- rules

    def expression(self, expr: Expr, axes: Axes, item: Statement | Carry) -> None:
        """It reads values at their own axes and numbers, and varies along no other axes than those."""
        for read in reads(expr):
            if read in (FIRST, LAST):
                continue
            if read.tensor in self.known:
                own, kind = self.known[read.tensor]
                if read.at != tuple(map(Index, own)):
                    raise self.broken(f"{print_expr(read)} is not at the axes of {read.tensor}, {', '.join(own)}", item)
                self.same(read.kind, kind, item)
                continue
            param = self.params.get(read.tensor)
            if param is None:
                raise self.broken(f"{read.tensor} is read before it is assigned", item)
            if not param.number:
                raise self.broken(f"{read.tensor} is a tensor, and not loaded", item)
            self.same(read.kind, param.kind, item)
        self.within(free_axes(expr), axes, f"the expression {print_expr(expr)}", item)

    def positions(self, at: tuple[Expr, ...], item: Statement) -> None:
        for position in at:
            if kind_of(position) != "int":
                raise self.broken(f"the position {print_expr(position)} is no integer", item)

    def truth(self, name: str, item: Statement | None = None) -> None:
        if self.known[name][1] != "bool":
            raise self.broken(f"{name} is {self.known[name][1]}, and a mask bool", item)

    def same(self, kind: Kind, found: Kind, item: Statement | Carry) -> None:
        if kind != found:
            raise self.broken(f"a value is {found}, and stands as {kind}", item)

    def within(self, axes: Axes, wide: Axes, what: str, item: Statement | Carry, where: str = "the axes of the statement") -> None:
        for axis in axes:
            if axis not in wide:
                raise self.broken(f"{what} has {axis}, which {where} lack", item)

    def exactly(self, axes: set[str], own: Axes, item: Statement) -> None:
        if axes != set(own):
            raise self.broken(f"the axes of operands make {', '.join(sorted(axes))}", item)

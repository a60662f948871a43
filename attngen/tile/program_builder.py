"""The statements of a tile program under construction: names, axes, and the section that each value belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from attngen.analysis.affine import FIRST, LAST
from attngen.errors import InternalError
from attngen.ir import build
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Expr, Index, Offset, Read, Start, kind_of
from attngen.ir.traverse import children, free_axes, names_read, once_a_node, with_children
from attngen.kernel.kernel import Kernel
from attngen.kernel.masked_out import keys_resident, quieted
from attngen.tile.nodes import Axes, Carry, Dot, Let, Load, Reduce, Reduction, Select, Statement, Value

BEFORE, INSIDE, AFTER = range(3)
"""Sections: before, inside and after the loop."""


class Builder:
    """Appends statements. A value goes into the earliest section in which all that it reads is known."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        pair = (kernel.resident, kernel.streamed or "")
        # Tiles of pairs are rows by keys in every kernel, as dots give them.
        pair = pair[::-1] if keys_resident(kernel) else pair
        self.order = tuple(dict.fromkeys((*kernel.grid, *kernel.loops, *pair, *kernel.features)))
        self.inputs = {item.name: item for item in kernel.inputs}
        self.steps: dict[str, Einsum] = {step.name: step for step in kernel.steps}
        self.taken: set[str] = {*self.inputs, *self.steps}
        self.alias: dict[str, str] = {}
        self.values: dict[str, Value | Carry] = {}
        self.sections: dict[str, int] = {}
        self.carried: list[Carry] = []
        self.before: list[Statement] = []
        self.masks: list[Statement] = []
        self.inside: list[Statement] = []
        self.after: list[Statement] = []
        self.masking = False
        self.known: dict[tuple[Expr, bool], str] = {}
        self.lets: dict[tuple[Expr, int, bool], str] = {}
        self.truths: dict[Expr, str] = {}
        self.seen_of: dict[tuple[str, Axes], str] = {}
        self.zeros: dict[str, str] = {}
        self.selects: dict[tuple[str, str, float], str] = {}
        self.quieted = quieted(kernel)

    # ---- names, axes and sections

    def fresh(self, base: str) -> str:
        """A name that nothing has."""
        name, number = f"{base}_value" if base in self.inputs or base in self.steps else base, 1
        stem = name
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def ordered(self, axes: Iterable[str]) -> Axes:
        """Axes in the order of the program, then others as they come."""
        found = dict.fromkeys(axes)
        return (*(axis for axis in self.order if axis in found), *(axis for axis in found if axis not in self.order))

    def axes(self, name: str) -> Axes:
        return self.values[name].axes

    def read(self, name: str) -> Read:
        """A value at its own axes."""
        value = self.values[name]
        return build.read(name, value.axes, value.kind)

    def section(self, expr: Expr) -> int:
        """Where all that an expression reads is known."""
        own = {self.kernel.streamed}
        moving = any(isinstance(node, Index | Offset | Start) and node.axis in own and self.kernel.streamed for node in _outside(expr))
        return max((INSIDE if moving else BEFORE, *(self.sections.get(name, BEFORE) for name in names_read(expr))))

    def put(self, value: Value, section: int | None = None) -> str:
        """Append the statement of a value; its name."""
        reads = [value.left, value.right] if isinstance(value, Dot) else [value.value] if isinstance(value, Reduce) else []
        if section is None:
            section = max(self.sections[name] for name in reads)
        place = (self.before, self.masks if self.masking else self.inside, self.after)[section]
        place.append(value)
        self.values[value.name], self.sections[value.name] = value, section
        return value.name

    # ---- expressions

    def own(self, expr: Expr) -> Expr:
        """An expression of the kernel as one of the program: steps and inputs are values."""

        def changed(node: Expr, visit: object) -> Expr:
            del visit
            if isinstance(node, Read):
                return self.source(node)
            return with_children(node, tuple(found(child) for child in children(node)))

        found = once_a_node(changed)
        return found(expr)

    def source(self, node: Read) -> Expr:
        """What a read of the kernel reads: a value, or a number."""
        if node.tensor in self.alias:
            name = self.alias[node.tensor]
            step = self.steps.get(node.tensor)
            if step is not None and node.at != tuple(Index(axis) for axis in step.axes):
                raise InternalError(f"{node.tensor} is not read at its own axes in {self.kernel.role}")
            return self.read(name)
        if node in (FIRST, LAST):
            return node
        if node.tensor not in self.inputs:
            raise InternalError(f"{node.tensor} is read before it is computed in {self.kernel.role}")
        return node if self.inputs[node.tensor].by_value else self.read(self.load(node))

    def load(self, node: Read) -> str:
        """The value of an input at the positions of a read."""
        at = tuple(self.own(position) for position in node.at)
        whole = Read(node.tensor, at, node.kind)
        section = max((BEFORE, *(self.section(position) for position in at)))
        key = (whole, self.masking and section == INSIDE)
        if key not in self.known:
            item = self.inputs[node.tensor]
            name = self.put(Load(self.fresh(node.tensor), self.ordered(free_axes(whole)), node.tensor, at, node.kind), section)
            alive = self.quieted.get(node.tensor)
            if alive is not None and item.kind == "float":
                name = self.let(name, build.apply("where", self.own(alive), self.read(name), build.ZERO))
            self.known[key] = name
        return self.known[key]

    def let(self, name: str, body: Expr, section: int | None = None) -> str:
        """The value of an expression of the program, in a section or as early as possible; no statement for a value that there is."""
        if isinstance(body, Read) and body.tensor in self.values and section in (None, self.sections[body.tensor]):
            return body.tensor
        section = self.section(body) if section is None else section
        key = (body, section, self.masking and section == INSIDE)
        if key not in self.lets:
            self.lets[key] = self.put(Let(self.fresh(name), self.ordered(free_axes(body)), body, kind_of(body)), section)
        return self.lets[key]

    def spread(self, name: str, axes: Collection[str]) -> str:
        """A value that has all of some axes: repeated along those that it does not vary along."""
        whole = self.ordered({*self.axes(name), *axes})
        if whole == self.axes(name):
            return name
        section = max(self.sections[name], INSIDE if self.kernel.streamed in whole else BEFORE)
        return self.put(Let(self.fresh(f"{name}_spread"), whole, build.apply("to_float", self.read(name))), section)

    def reduce(self, name: str, op: Reduction, value: str, over: Axes) -> str:
        """A reduction over axes; along those that a value does not have, all of its elements are equal."""
        if op == "sum":
            value = self.spread(value, over)
        over = tuple(axis for axis in over if axis in self.axes(value))
        if not over:
            return value
        axes = tuple(axis for axis in self.axes(value) if axis not in over)
        kind = "bool" if op == "any" else self.values[value].kind
        return self.put(Reduce(self.fresh(name), axes, op, value, over, kind))

    # ---- masks

    def truth(self, guard: Expr) -> str:
        """The truth value of a guard, among the masks unless it reads computed values."""
        if guard not in self.truths:
            computed = bool(set(names_read(guard)) & set(self.steps))
            before, self.masking = self.masking, not computed
            self.truths[guard] = self.let("valid", build.apply("to_bool", self.own(guard)), INSIDE)
            self.masking = before
        return self.truths[guard]

    def seen(self, guard: Expr, axes: Axes) -> str:
        """Whether positions have any element in the tile: a truth value along `axes`."""
        valid = self.truth(guard)
        over = tuple(axis for axis in self.axes(valid) if axis not in axes)
        key = (valid, over)
        if key not in self.seen_of:
            before, self.masking = self.masking, valid in {item.name for item in self.masks if isinstance(item, Let)}
            self.seen_of[key] = self.reduce("seen", "any", valid, over) if over else valid
            self.masking = before
        return self.seen_of[key]

    def select(self, value: str, mask: str, missing: float) -> str:
        """A value where a mask holds. One that is 0 outside of it stays."""
        if missing == 0.0 and self.zeros.get(value) == mask:
            return value
        key = (value, mask, missing)
        if key not in self.selects:
            axes = self.ordered({*self.axes(value), *self.axes(mask)})
            stem = value.removesuffix("_value")
            self.selects[key] = self.put(Select(self.fresh(f"{stem}_seen"), axes, value, mask, missing), INSIDE)
            if missing == 0.0:
                self.zeros[self.selects[key]] = mask
        return self.selects[key]

    # ---- carried values

    def carry(self, name: str, axes: Iterable[str], init: Expr) -> str:
        """A carried value, known after the loop by the name of its step; what it hands on is told later."""
        mine = self.fresh(name)
        own = Carry(mine, self.ordered(axis for axis in axes if axis != self.kernel.streamed), init, f"{mine}_new")
        self.taken.add(own.next)
        self.carried.append(own)
        self.values[mine], self.sections[mine], self.alias[name] = own, AFTER, mine
        return mine

    def next_of(self, carry: str) -> str:
        return next(item.next for item in self.carried if item.name == carry)

    def hand_on(self, carry: str, body: Expr) -> str:
        """The statement of what a carried value is next."""
        return self.put(Let(self.next_of(carry), self.ordered(free_axes(body)), body), INSIDE)

    def hand_on_dot(self, carry: str, dot: Dot) -> str:
        return self.put(replace(dot, name=self.next_of(carry)), INSIDE)


def _outside(expr: Expr) -> list[Expr]:
    """Nodes of an expression that are no positions of a value's own axes."""
    found: list[Expr] = []
    pending = [expr]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        found.append(node)
        pending.extend(child for child in children(node) if not (isinstance(node, Read) and isinstance(child, Index)))
    return found

"""Dilated masks: the residue classes of the positions become an axis of their own.

    x[m,n]  if abs(m - n) < w and (m - n) % D == 0        x[m,c,n]  if D * abs(m - n) < w

Position D * m + c is element m of class c, read with strides D times as long: the congruence disappears from the mask, and nothing is
copied if D divides the length. Other lengths are padded, and the padded keys masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attngen.analysis.affine import Linear, linear
from attngen.analysis.axis_roles import roles
from attngen.analysis.congruence import common_divisor
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, Read, kind_of
from attngen.ir.names import Names
from attngen.ir.traverse import walk

_COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))


@dataclass(frozen=True, slots=True)
class Dilation:
    """How tokens fall into residue classes.

    Attributes:
        divisor: the number of classes; position p is in class p % divisor, at p // divisor.
        axes: the two sequence axes, of queries and of keys.
        axis: of the classes.
        length: the input that holds the number of keys.
    """

    divisor: int
    axes: tuple[str, str]
    axis: str
    length: str


def by_remainder(cascade: Cascade, numbers: Mapping[str, int]) -> tuple[Cascade, Dilation] | None:
    """The cascade with tokens in classes of equal remainder; None where its mask does not ask for that.

    Args:
        cascade: CanonicalForm.
        numbers: values of captured integers.

    Returns:
        A cascade whose results have the class axis after the query axis, and whose arguments have it before their sequence axis.
    """
    axes = roles(cascade)
    resident, streamed = axes.resident, axes.streamed
    divisor = _divisor(cascade, resident, streamed)
    value = _value(divisor, numbers)
    if divisor is None or value < 2 or not _is_movable(cascade, (resident, streamed)):
        return None
    names = Names(cascade)
    dilation = Dilation(value, (resident, streamed), names.fresh("c"), names.fresh("keys"))
    move = _Move(cascade, dilation, divisor)
    inputs = (*map(move.input, cascade.inputs), Input(dilation.length, None, 0, "int", number=True))
    return Cascade(inputs, tuple(map(move.step, cascade.steps)), cascade.outputs), dilation


def number_of_classes(cascade: Cascade) -> str | int:
    """The number of residue classes of a cascade (CanonicalForm): an integer, 0 for none, or the name of a captured number."""
    axes = roles(cascade)
    match _divisor(cascade, axes.resident, axes.streamed):
        case Const(value=int(value)):
            return value
        case Read(tensor=name, at=()):
            return name
        case _:
            return 0


def _divisor(cascade: Cascade, resident: str, streamed: str) -> Expr | None:
    divisors = {common_divisor(step.where, resident, streamed) for step in cascade.steps if streamed in step.over}
    return divisors.pop() if len(divisors) == 1 else None


def _value(divisor: Expr | None, numbers: Mapping[str, int]) -> int:
    """The value of a divisor that is a literal or a known capture, else 0."""
    match divisor:
        case Const(value=int(value)):
            return value
        case Read(tensor=name, at=()):
            return numbers.get(name, 0)
        case _:
            return 0


def _is_movable(cascade: Cascade, sequence: tuple[str, str]) -> bool:
    """Whether no extent of a sequence axis is read."""
    for step in cascade.steps:
        for node in (*walk(step.body), *(walk(step.where) if step.where is not None else ())):
            if isinstance(node, Extent) and node.axis in sequence:
                return False
    return True


class _Move:
    """Expressions and axes with tokens in classes."""

    def __init__(self, cascade: Cascade, dilation: Dilation, divisor: Expr) -> None:
        self.dilation, self.written = dilation, divisor
        self.divisor, self.inner = build.const(dilation.divisor), Index(dilation.axis)
        self.arguments = {item.name for item in cascade.inputs if item.axes is not None}
        self.steps = {step.name for step in cascade.steps}

    def input(self, item: Input) -> Input:
        if item.axes is None:
            return item
        axes = tuple(new for axis in item.axes for new in ((self.dilation.axis, axis) if axis in self.dilation.axes else (axis,)))
        return replace(item, axes=axes, rank=len(axes))

    def step(self, step: Einsum) -> Einsum:
        sequence = [axis for axis in step.axes if axis in self.dilation.axes]
        axes: tuple[str, ...] = step.axes
        if sequence:
            at = step.axes.index(sequence[0]) + 1
            axes = (*step.axes[:at], self.dilation.axis, *step.axes[at:])
        where = None if step.where is None else self.expr(step.where)
        if step.where is not None and self.dilation.axes[1] in (*step.axes, *step.over):
            where = build.both(where, build.apply("lt", self.position(self.dilation.axes[1]), build.read(self.dilation.length, (), "int")))
        return replace(step, axes=axes, body=self.expr(step.body), where=None if where == build.TRUE else where)

    def position(self, axis: str) -> Expr:
        return build.add(build.mul(Index(axis), self.divisor), self.inner)

    def expr(self, expr: Expr) -> Expr:
        match expr:
            case Index(axis=axis) if axis in self.dilation.axes:
                return self.position(axis)
            case Read() if expr == self.written:
                return self.divisor
            case Read(tensor=name, at=at, kind=kind) if name in self.arguments | self.steps:
                return Read(name, self.own(at, name in self.arguments), kind)
            case Read(tensor=name, at=at, kind=kind):
                return Read(name, tuple(map(self.expr, at)), kind)
            case Apply(op=op, args=args):
                return self.applied(op, tuple(map(self.expr, args)))
            case _:
                return expr

    def own(self, at: tuple[Expr, ...], is_argument: bool) -> tuple[Expr, ...]:
        """The positions of an argument or step, with the class axis."""
        found: list[Expr] = []
        for place in at:
            here = isinstance(place, Index) and place.axis in self.dilation.axes
            if here and (is_argument or self.inner not in found):
                found += [self.inner, place] if is_argument else [place, self.inner]
            else:
                found.append(place)
        return tuple(found)

    def applied(self, op: str, args: tuple[Expr, ...]) -> Expr:
        if op in ("mod", "floordiv") and args[1] == self.divisor:
            found = self.divided(args[0])
            if found is not None:
                return found[op == "mod"]
        if op in _COMPARISONS and all(kind_of(arg) == "int" for arg in args):
            args = self.compared(linear(args[0]).plus(linear(args[1]), -1)) or args
        if op == "sub" and kind_of(args[0]) == kind_of(args[1]) == "int":
            return linear(args[0]).plus(linear(args[1]), -1).expr()
        return build.apply(op, *args)

    def compared(self, form: Linear) -> tuple[Expr, Expr] | None:
        """Both sides of a comparison with 0 without the class and its number, where they cancel."""
        divisor = self.dilation.divisor
        if form.constant % divisor or any(factor % divisor for _, factor in form.terms):
            return None
        terms = [(term, factor // divisor) for term, factor in form.terms]
        left = Linear(tuple(item for item in terms if item[1] > 0), form.constant // divisor)
        return left.expr(), Linear(tuple((term, -factor) for term, factor in terms if factor < 0), 0).expr()

    def divided(self, x: Expr) -> tuple[Expr, Expr] | None:
        """Quotient and remainder of a position by the divisor; None if they do not simplify."""
        if isinstance(x, Apply) and x.op == "abs":
            inner = self.divided(x.args[0])
            return None if inner is None or inner[1] != build.const(0) else (build.apply("abs", inner[0]), inner[1])
        form, divisor = linear(x), self.dilation.divisor
        whole = [(term, factor) for term, factor in form.terms if factor % divisor == 0]
        rest = form.without(*(term for term, _ in whole))
        quotient, constant = divmod(form.constant, divisor)
        if rest.terms == ((self.inner, 1),) and constant == 0:
            remainder: Expr = self.inner
        elif not rest.terms:
            remainder = build.const(constant)
        else:
            return None
        return replace(form, terms=tuple((term, factor // divisor) for term, factor in whole), constant=quotient).expr(), remainder

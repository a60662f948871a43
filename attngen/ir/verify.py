"""Forms of cascades and their checks. A Form is a list of rules that a stage relies on; its docstring shows the legal shapes."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from typing import ClassVar

from attngen.errors import MalformedCascade
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Index, Kind, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import extents, free_axes, live_steps, reads, walk

Rule = Callable[[Cascade], None]
RESERVED = frozenset(("inf", "extent", "sum", "max", "logsumexp", "first", "last", *keyword.kwlist))
"""Illegal names of tensors and axes: the parser reserves them, or they would shadow the bounds of a tile."""
_WHOLE = frozenset(("bitand", "bitor", "bitxor", "shl", "shr", "random_bits"))


class Form:
    """Base of all Forms. `rules` are checked in order; a rule may rely on earlier ones."""

    rules: ClassVar[tuple[Rule, ...]] = ()


def verify(cascade: Cascade, form: type[Form]) -> Cascade:
    """Check a Form; gives the cascade unchanged.

    Raises:
        MalformedCascade: a rule is broken; the message names the rule and the step, and shows the user's line.
    """
    for rule in form.rules:
        rule(cascade)
    return cascade


def _broken(rule: str, step: Einsum | None = None) -> MalformedCascade:
    if step is None:
        return MalformedCascade(rule)
    return MalformedCascade(f"{rule}, in step\n    {step!s}", loc=step.loc)


def _exprs(step: Einsum) -> tuple[Expr, ...]:
    return (step.body,) if step.where is None else (step.body, step.where)


def _nodes(step: Einsum) -> Iterable[Expr]:
    return (node for expr in _exprs(step) for node in walk(expr))


def names_are_unique(cascade: Cascade) -> None:
    """Inputs, steps and axes share one namespace without `RESERVED`, and every tensor is defined once."""
    seen: set[str] = set()
    tensors = [(item.name, None) for item in cascade.inputs] + [(step.name, step) for step in cascade.steps]
    for name, step in tensors:
        if not name.isidentifier() or name in RESERVED:
            raise _broken(f"{name!r} is not a legal name", step)
        if name in seen:
            raise _broken(f"{name!r} is defined twice", step)
        seen.add(name)
    axes = [axis for item in cascade.inputs for axis in item.axes or ()]
    axes += [axis for step in cascade.steps for axis in (*step.axes, *step.over)]
    for axis in axes:
        if not axis.isidentifier() or axis in RESERVED:
            raise _broken(f"{axis!r} is not a legal name of an axis")
        if axis in seen:
            raise _broken(f"{axis!r} names both an axis and a tensor", cascade.step(axis))


def inputs_are_consistent(cascade: Cascade) -> None:
    """An argument has as many distinct axes as its rank; a Python number is a capture of rank 0."""
    for item in cascade.inputs:
        if item.axes is not None and (len(item.axes) != item.rank or len(set(item.axes)) != item.rank):
            raise _broken(f"argument {item.name!r} of rank {item.rank} needs as many distinct axes, it has {list(item.axes)}")
        if item.number and (item.axes is not None or item.rank != 0):
            raise _broken(f"{item.name!r} is a number, so it must be a capture of rank 0")


def reads_are_earlier(cascade: Cascade) -> None:
    """A step reads inputs and earlier steps only, with one integer position per dimension and the right kind."""
    ranks = {item.name: item.rank for item in cascade.inputs}
    kinds: dict[str, Kind] = {item.name: item.kind for item in cascade.inputs}
    for step in cascade.steps:
        for read in (read for expr in _exprs(step) for read in reads(expr)):
            text = print_expr(read)
            if read.tensor not in ranks:
                raise _broken(f"{text} reads a tensor that is not defined before", step)
            if len(read.at) != ranks[read.tensor]:
                raise _broken(f"{text} has {len(read.at)} positions, {read.tensor!r} has {ranks[read.tensor]} dimensions", step)
            if read.kind != kinds[read.tensor]:
                raise _broken(f"{text} is read as {read.kind}, {read.tensor!r} is {kinds[read.tensor]}", step)
            if any(kind_of(at) != "int" for at in read.at):
                raise _broken(f"a position of {text} is not an integer", step)
        ranks[step.name] = len(step.axes)
        kinds[step.name] = kind_of(step.body)


def outputs_exist(cascade: Cascade) -> None:
    """There is at least one output, and outputs name inputs or steps."""
    if not cascade.outputs:
        raise _broken("a cascade needs an output")
    for name in cascade.outputs:
        if cascade.step(name) is None and cascade.input(name) is None:
            raise _broken(f"output {name!r} is neither an input nor a step")


def axes_are_bound(cascade: Cascade) -> None:
    """The axes of a step and its reduced axes are distinct and include every index of its body and predicate.

    A body that lacks an axis of its step broadcasts. An extent may be read only of an axis that an argument or a step has.
    """
    known = {axis for item in cascade.inputs for axis in item.axes or ()}
    known |= {axis for step in cascade.steps for axis in (*step.axes, *step.over)}
    for step in cascade.steps:
        space = (*step.axes, *step.over)
        if len(set(space)) != len(space):
            raise _broken("an axis occurs twice among the axes of the step and those it reduces over", step)
        if (step.reduce is None) != (not step.over):
            raise _broken("a reduction has reduced axes, and no other step has", step)
        used = {axis for expr in _exprs(step) for axis in free_axes(expr)}
        for axis in sorted(used - set(space)):
            raise _broken(f"index {axis!r} is neither an axis of the step nor reduced over", step)
        for axis in (axis for expr in _exprs(step) for axis in extents(expr)):
            if axis not in known:
                raise _broken(f"extent({axis}) of an axis that no tensor has", step)


def bodies_have_what_is_reduced(cascade: Cascade) -> None:
    """The body or predicate of a reduction varies along every reduced axis. (Derived steps may count: `sum[n] 1.0`.)"""
    for step in cascade.steps:
        used = {axis for expr in _exprs(step) for axis in free_axes(expr)}
        for axis in step.over:
            if axis not in used:
                raise _broken(f"reduced over {axis!r}, which the body lacks", step)


def kinds_are_right(cascade: Cascade) -> None:
    """Predicates and operands of logic are bool, those of bit operations integers; sums are of numbers, max and logsumexp of floats."""
    for step in cascade.steps:
        if step.where is not None and kind_of(step.where) != "bool":
            raise _broken("the predicate is not bool", step)
        kind = kind_of(step.body)
        if step.reduce is not None and (kind == "bool" or (step.reduce != "sum" and kind != "float")):
            raise _broken(f"{step.reduce} of {kind} values", step)
        for node in _nodes(step):
            match node:
                case Apply(op="and" | "or" | "not", args=args) if any(kind_of(arg) != "bool" for arg in args):
                    raise _broken(f"{print_expr(node)} needs truth values", step)
                case Apply(op="where", args=(condition, _, _)) if kind_of(condition) != "bool":
                    raise _broken(f"the condition of {print_expr(node)} is not bool", step)
                case Apply(op=op, args=args) if op in _WHOLE and any(kind_of(arg) == "float" for arg in args):
                    raise _broken(f"{print_expr(node)} needs integers", step)
                case _:
                    pass


def steps_are_live(cascade: Cascade) -> None:
    """Every step is needed for an output."""
    live = {step.name for step in live_steps(cascade)}
    for step in cascade.steps:
        if step.name not in live:
            raise _broken("no output needs this step", step)


def masks_are_predicates(cascade: Cascade) -> None:
    """No body is, or adds, `where(P, x, -inf)`: P belongs in the predicate of the step.

    A step without a reduced axis may be -inf: a sink that some heads lack.
    """
    reduced = {axis for step in cascade.steps for axis in step.over}
    for step in cascade.steps:
        if _masked(step.body) and reduced & {*step.axes, *step.over}:
            raise _broken("-inf masks an element, which belongs in the predicate", step)


def _masked(expr: Expr) -> bool:
    match expr:
        case Apply(op="where", args=(_, a, b)):
            return build.is_const(a, float("-inf")) or build.is_const(b, float("-inf"))
        case Apply(op="add", args=(a, b)):
            return _masked(a) or _masked(b)
        case Apply(op="sub", args=(a, _)):
            return _masked(a)
        case _:
            return False


def masks_are_inherited(cascade: Cascade) -> None:
    """A predicate holds all conjuncts of the predicates of the pointwise steps that the body reads at their own axes."""
    pointwise = {step.name: step for step in cascade.steps if step.reduce is None}
    for step in cascade.steps:
        own = set(build.conjuncts(step.where))
        for read in reads(step.body):
            source = pointwise.get(read.tensor)
            if source is None or read.at != tuple(Index(axis) for axis in source.axes):
                continue
            for part in build.conjuncts(source.where):
                if part not in own:
                    raise _broken(f"{source.name!r} exists only if {print_expr(part)}, which the predicate lacks", step)


class TracedForm(Form):
    """The output of a front end: a well-formed cascade.

        name[axes] = body                    every index of the body is an axis of the step; a missing axis broadcasts
        name[axes] = reduce[over] body       every index is an axis of the step or reduced; all of `over` occur
        ... if where                         a bool expression over the same indices
        tensor[i, j]                         an input or an earlier step, one integer expression per dimension

    Steps are in order, names are defined once, and no axis has the name of a tensor.
    """

    rules = (
        names_are_unique,
        inputs_are_consistent,
        reads_are_earlier,
        outputs_exist,
        axes_are_bound,
        bodies_have_what_is_reduced,
        kinds_are_right,
    )


class CanonicalForm(Form):
    """The output of `canonicalize`: TracedForm, and

    every step is live
    x[m,n] = s[m,n] + where(P, t, -inf)   has become   x[m,n] = s[m,n] + t  if P
    p[m,n] = f(x[m,n])                    has become   p[m,n] = f(x[m,n])  if P
    """

    rules = (*TracedForm.rules, steps_are_live, masks_are_predicates, masks_are_inherited)

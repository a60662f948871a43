"""Mask lifting: masks in the body of a step, however spelled, move to its `where`.

    x[m,n] = where(m >= n, s[m,n], -inf) * extent(d) ** -0.5    ->   x[m,n] = s[m,n] * extent(d) ** -0.5  if m >= n
    z[n]   = sum[m] where(m >= n, exp(s[m,n] - l[m]), 0.0)      ->   z[n]   = sum[m] exp(s[m,n] - l[m])  if m >= n

Later passes then never compute with minus infinity, and derive tile bounds from the predicates. Two rules, both using `absence`:

- Scores: a predicate outside of which a step is -inf is lifted if every sequence reduction that reads the step ignores the masked
  elements: its body is its identity there (0 for a sum, else -inf), or not finite at all.
- Weights: a predicate outside of which a sum's body is 0 is lifted if all reductions over the same axis are masked too. Otherwise all tiles
  are visited anyway, and a second mask would only need a second running maximum.

Takes and gives TracedForm; unmasked values are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attngen.ir import build
from attngen.ir.absence import Absence, Fill, Known, absence
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Const, Expr, Read, kind_of
from attngen.ir.signs import Signs, signs
from attngen.ir.traverse import free_axes, map_steps, names_read, once_a_node, walk

Parts = frozenset[Expr]
"""The conjuncts of a predicate."""
Lifted = dict[str, tuple[Expr, ...]]
"""The conjuncts to add to the predicate of each step, by its name."""


def lift_masks(cascade: Cascade) -> Cascade:
    """The cascade with masks lifted to predicates."""
    if not any(map(_may_mask, cascade.steps)):
        return cascade
    facts = _Facts(cascade)
    lowered = facts.scores()
    zeroed = facts.weights(lowered)
    found = {name: (*lowered.get(name, ()), *zeroed.get(name, ())) for name in (*lowered, *zeroed)}

    def lifted(step: Einsum) -> Einsum:
        parts = found.get(step.name, ())
        if not parts:
            return step
        return replace(step, body=under(step.body, frozenset(parts)), where=build.both(step.where, *parts))

    return map_steps(cascade, lifted)


def under(expr: Expr, parts: Parts) -> Expr:
    """An expression where the parts of a predicate hold."""

    def held(node: Expr, visit: Callable[[Expr], Expr]) -> Expr:
        if node in parts:
            return build.TRUE
        if kind_of(node) == "bool" and build.apply("not", node) in parts:
            return build.FALSE
        if not isinstance(node, Apply):
            return node
        args = tuple(visit(arg) for arg in node.args)
        if args == node.args:
            return node
        return build.const(1) if node.op == "to_int" and args == (build.TRUE,) else build.apply(node.op, *args)

    return once_a_node(held)(expr)


def _may_mask(step: Einsum) -> bool:
    """Whether a body contains a `where`, or a truth value converted to a number."""
    nodes = (node for node in walk(step.body) if isinstance(node, Apply))
    return any(node.op == "where" or (node.op in ("to_float", "to_int") and kind_of(node.args[0]) == "bool") for node in nodes)


class _Facts:
    """The absence of every step, and the elements that each reduction may skip."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        absences: dict[Read, Absence] = {}
        of_steps: dict[str, Signs] = {}
        inner = {axis for item in cascade.inputs for axis in (item.axes or ())[:-1]}
        rows = frozenset(item.axes[-2] for item in cascade.inputs if item.axes and len(item.axes) > 1 and item.axes[-1] not in inner)
        self.known = Known(absences, of_steps, rows, frozenset(item.name for item in cascade.inputs if item.axes is None))
        self.own: dict[str, Absence] = {}
        for step in cascade.steps:
            self.own[step.name] = found = absence(step.body, self.known).within(step.where)
            if step.reduce is None:
                of_steps[step.name] = signs(step.body, of_steps)
                absences[build.read(step.name, step.axes, kind_of(step.body))] = found

    # ---- scores: minus infinity

    def scores(self) -> Lifted:
        """The predicates outside of which pointwise steps are -inf."""
        reduced = {axis for step in self.cascade.steps for axis in step.over}
        found: Lifted = {}
        for step in self.cascade.steps:
            if self.is_inner(step) and reduced & set(step.axes):
                readers = self.readers(step)
                parts = tuple(part for part in self.new(step, "low") if not any(self.notices(reader, part) for reader in readers))
                found |= {step.name: parts} if parts and self.says(step, parts) else {}
        return found

    def notices(self, reader: Einsum, part: Expr) -> bool:
        """Whether a reduction depends on elements outside of a predicate. Sums of weights under different masks do not count:
        `canonicalize` refuses them."""
        if part in self.skipped(reader):
            return False
        broken = part in build.conjuncts(self.own[reader.name].broken) and bool(set(free_axes(part)) & set(reader.over))
        return not broken and not any(self.is_mixed(node, part) for node in self.inlined(reader))

    def is_mixed(self, node: Expr, part: Expr) -> bool:
        """Whether a node adds a value that is 0 outside of the predicate and one that is not."""
        if not (isinstance(node, Apply) and node.op in ("add", "sub")):
            return False
        first, second = (part in build.conjuncts(absence(arg, self.known).zero) for arg in node.args)
        return first != second and not self.reads_masked(node.args[1] if first else node.args[0], part)

    def reads_masked(self, expr: Expr, part: Expr) -> bool:
        """Whether an expression reads scores that are -inf outside of a predicate."""
        names = {node.tensor for node in self.within(expr) if isinstance(node, Read)}
        return any(part in build.conjuncts(self.own[name].low) for name in names if name in self.own)

    # ---- weights: 0 in a sum

    def weights(self, lowered: Lifted) -> Lifted:
        """The predicates outside of which sums are 0, for the sums and for the pointwise steps that only masked sums read."""
        masks = {step.name: self.skipped(step) for step in self.cascade.steps if self.reduces_sequence(step)}
        found: Lifted = {}
        for step in self.cascade.steps:
            if step.name in masks:
                others = [other for other in self.cascade.steps if other.name in masks and set(other.over) & set(step.over)]
                shifts = [masks[other.name] for other in others if other.reduce != "sum"]
                known = self.inherited(step, lowered)
                own = self.new(step, "zero" if step.reduce == "sum" else "low")
                parts = tuple(part for part in own if part not in known and self.bounds(part))
                bounded = all(any(map(self.bounds, masks[other.name])) for other in others)
                if parts and self.selects_reduced(step, parts):
                    found[step.name] = parts
                elif bounded and (shared := tuple(part for part in parts if all(part in mask for mask in shifts))):
                    found[step.name] = shared
        predicates = {name: self.predicate(name, found, lowered) for name in masks}
        for step in self.cascade.steps:
            if self.is_inner(step) and step.name not in lowered and kind_of(step.body) == "float":
                readers = [predicates.get(reader.name, frozenset()) for reader in self.readers(step)]
                parts = tuple(part for part in self.new(step, "zero") if readers and all(part in reader for reader in readers))
                found |= {step.name: parts} if parts and self.says(step, parts) else {}
        return found

    def selects_reduced(self, step: Einsum, parts: tuple[Expr, ...]) -> bool:
        """Whether such a predicate selects values that depend on a reduction over the same axis, which one pass cannot do."""
        for node in self.inlined(step):
            if isinstance(node, Apply) and node.op == "where" and under(node.args[0], frozenset(parts)) != node.args[0]:
                sources = [self.by_name(read.tensor) for inner in self.within(node) if isinstance(read := inner, Read)]
                if any(other is not None and set(other.over) & set(step.over) for other in sources):
                    return True
        return False

    def says(self, step: Einsum, parts: tuple[Expr, ...]) -> bool:
        """Whether the mask is in the body of the step itself, not in a step that it reads."""
        return bool(infinities(step.body)) or under(step.body, frozenset(parts)) != step.body

    def bounds(self, part: Expr) -> bool:
        """Whether a predicate may bound tiles: it reads no computed value, no float tensor and no random bits."""
        inputs = {item.name for item in self.cascade.inputs}
        for node in walk(part):
            if isinstance(node, Read) and (node.tensor not in inputs or (node.kind == "float" and node.at)):
                return False
            if isinstance(node, Apply) and node.op == "random_bits":
                return False
        return bool(free_axes(part))

    def predicate(self, name: str, found: Lifted, lowered: Lifted) -> Parts:
        """The conjuncts of the predicate of a reduction after lifting."""
        step = self.by_name(name)
        own = () if step is None else (*build.conjuncts(step.where), *self.inherited(step, lowered))
        return frozenset((*own, *found.get(name, ())))

    # ---- the cascade

    def is_inner(self, step: Einsum) -> bool:
        """Whether a step is pointwise and not an output."""
        return step.reduce is None and step.name not in self.cascade.outputs

    def reduces_sequence(self, step: Einsum) -> bool:
        """Whether a step reduces over an axis that is not the last one of some argument."""
        return any(axis in (item.axes or ())[:-1] for axis in step.over for item in self.cascade.inputs)

    def skipped(self, step: Einsum) -> Parts:
        """The conjuncts outside of which the body of a reduction is its identity."""
        own = self.own[step.name]
        return frozenset(build.conjuncts(own.zero if step.reduce == "sum" else own.low))

    def new(self, step: Einsum, fill: Fill) -> tuple[Expr, ...]:
        """The conjuncts that the body of a step implies and its predicate lacks; () if it is that fill everywhere."""
        parts, mine = build.conjuncts(getattr(self.own[step.name], fill)), build.conjuncts(step.where)
        return () if build.FALSE in parts else tuple(part for part in parts if part not in mine)

    def inherited(self, step: Einsum, lowered: Lifted) -> Parts:
        """What a step is under since the pointwise steps that it reads are."""
        found, seen, pending = set[Expr](), set[str](), self.sources(step)
        while pending:
            source = pending.pop()
            if source.name not in seen:
                seen.add(source.name)
                found |= {*lowered.get(source.name, ()), *build.conjuncts(source.where)}
                pending += self.sources(source)
        return frozenset(found)

    def sources(self, step: Einsum) -> list[Einsum]:
        """The pointwise steps that a step reads."""
        found = [self.by_name(name) for name in (*names_read(step.body), *names_read(step.where))]
        return [source for source in found if source is not None and source.reduce is None]

    def readers(self, step: Einsum) -> list[Einsum]:
        """The reductions that read a step, directly or through pointwise steps."""
        names, found = {step.name}, list[Einsum]()
        for other in self.cascade.steps:
            if names & {*names_read(other.body), *names_read(other.where)}:
                if other.reduce is None:
                    names.add(other.name)
                else:
                    found.append(other)
        return found

    def inlined(self, step: Einsum) -> Iterator[Expr]:
        """The nodes of a body and of the pointwise steps that it reads."""
        return self.within(step.body)

    def within(self, expr: Expr) -> Iterator[Expr]:
        """The nodes of an expression and of the pointwise steps that it reads."""
        yield from walk(expr)
        pending, seen = list(reversed(names_read(expr))), set[str]()
        while pending:
            source = self.by_name(name := pending.pop())
            if source is not None and source.reduce is None and name not in seen:
                seen.add(name)
                yield from walk(source.body)
                pending.extend(reversed(names_read(source.body)))

    def by_name(self, name: str) -> Einsum | None:
        return self.cascade.step(name)


# ---- masks that were not lifted


LEAST = -1e4
"""Finite scores up to here are taken to mean minus infinity."""


def infinities(expr: Expr) -> list[Apply]:
    """The `where` nodes with an infinite branch."""
    return [node for node in walk(expr) if isinstance(node, Apply) and node.op == "where" and any(_infinite(arg) for arg in node.args[1:])]


def _infinite(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.kind == "float" and expr.value in (float("inf"), float("-inf"))


def unlifted_masks(cascade: Cascade) -> tuple[tuple[Einsum, str], ...]:
    """Steps of a lifted cascade whose body still holds a mask, each with the reason."""
    facts = _Facts(cascade)
    reduced = {axis for step in cascade.steps for axis in step.over}
    found: list[tuple[Einsum, str]] = []
    for step in cascade.steps:
        mine = frozenset(build.conjuncts(step.where))
        covered = frozenset(build.conjuncts(absence(step.body, facts.known).low)) - {build.FALSE} & mine
        if step.name in cascade.outputs or (covered and covered <= mine):
            continue
        for node in walk(step.body):
            if isinstance(node, Apply) and node.op == "where" and reduced & set(free_axes(node.args[0])):
                if any(map(_infinite, node.args[1:])):
                    found.append((step, _reason(step.body, node, facts.known)))
                elif any(map(_least, node.args[1:])):
                    found.append((step, "a finite number is no mask: in a fully masked row the weights are not 0"))
    return tuple(dict.fromkeys(found))


def _least(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.kind == "float" and float("-inf") < expr.value <= LEAST


def _reason(body: Expr, node: Apply, known: Known) -> str:
    """Why a mask was not lifted: the operation around it that hides the fill."""
    around = [outer for outer in walk(body) if isinstance(outer, Apply) and outer != node and node in walk(outer)]
    for outer in reversed(around):
        seen = absence(outer, known)
        if any(predicate is not None for predicate in (seen.zero, seen.low, seen.high)):
            continue
        if outer.op in ("mul", "div"):
            return "the sign of a factor is unknown, and -inf times a negative number is inf"
        if outer.op in ("add", "sub", "min", "max", "where", "logaddexp"):
            return f"{outer.op} does not preserve -inf"
        return f"{outer.op} of -inf is finite"
    return "a reduction that reads it depends on masked elements"

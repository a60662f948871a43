"""Precise delta: computed from the weights in a sweep over the keys, instead of from the rounded output.

    delta[m]  = sum[e] do[m,e] * o[m,e]                  dp[m,n]  = sum[e] do[m,e] * v[n,e]
                                              ->         delta[m] = (sum[n] p[m,n] * dp[m,n]) / sum[n] p[m,n]

Both are sum[n,e] do * p * v in different summation orders. A stored output is rounded to the input dtype, and dp - delta cancels: if one
weight of a row is nearly 1, or a divisor is small, mostly the rounding error is left. The second form sums the same dots that delta is
subtracted from, in the accumulator dtype. It costs two dots a tile, and o need not be saved.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from attngen.ir import build
from attngen.ir.algebra import counted_terms, linear_sum, product, signed_factors, signed_terms
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Apply, Expr, Extent, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, inline, names_read, reads, rewrite, walk
from attngen.transform.streaming.gauges import Gauge, at_own_axes
from attngen.transform.streaming.streaming import Streamed


def exchange_sums(streamed: Streamed, whole: Cascade) -> Cascade:
    """Exchange the summation order of feature sums over an accumulator: sums over the keys of a weight times a dot.

    Args:
        streamed: the forward in StreamingForm.
        whole: its steps, followed by those of the gradients.
    """
    exchange = _Exchange(streamed, whole)
    own = {step.name for step in streamed.cascade.steps}
    steps = [made for step in whole.steps for made in ([step] if step.name in own else exchange.step(step))]
    return replace(whole, steps=tuple(steps))


class _Exchange:
    def __init__(self, streamed: Streamed, whole: Cascade) -> None:
        self.axis = streamed.streamed
        self.names = Names(whole)
        self.order = tuple(dict.fromkeys(axis for step in whole.steps for axis in step.axes))
        self.gauges = {gauge.name: gauge for gauge in streamed.gauges}
        self.accumulators = {item.name: item for item in streamed.accumulators}
        self.norms: dict[str, Expr] = {}
        self.sums = {step.name: step for step in streamed.cascade.steps if step.name in self.accumulators}
        self.rows = {step.name: step for step in streamed.cascade.steps if step.reduce is None and step.where is None}
        self.rows = {name: step for name, step in self.rows.items() if self.axis not in step.axes}

    def step(self, step: Einsum) -> list[Einsum]:
        """The steps that replace one; itself if it has no such sum."""
        if step.reduce != "sum" or self.axis in (*step.axes, *step.over) or step.where is not None:
            return [step]
        terms = self.terms(step.body)
        exchanged = [self.term(step, parts) for _, parts in terms]
        if not any(exchanged):
            return [step]
        made: list[Einsum] = []
        total: list[Expr] = []
        for (sign, parts), new in zip(terms, exchanged, strict=True):
            made += new or [replace(step, name=self.names.fresh(f"{step.name}_rest"), body=product(parts))]
            read = build.read(made[-1].name, step.axes)
            total.append(read if sign > 0 else build.neg(read))
        return [*made, Einsum(step.name, step.axes, build.total(total), loc=step.loc)]

    def terms(self, expr: Expr) -> list[tuple[int, list[Expr]]]:
        """An expression as signed products; a quotient is split into numerator and reciprocal, row values are inlined."""
        found: list[tuple[int, list[Expr]]] = []
        for sign, term in signed_terms(expr):
            products: list[tuple[int, list[Expr]]] = [(sign, [])]
            for part in signed_factors(term):
                products = [(a * b, [*left, *right]) for a, left in products for b, right in self.opened(part)]
            found += products
        return found

    def opened(self, part: Expr) -> list[tuple[int, list[Expr]]]:
        match part:
            case Apply(op="neg", args=(inner,)):
                return [(-sign, parts) for sign, parts in self.terms(inner)]
            case Apply(op="div" | "safe_div" as op, args=(a, b)) if any(name in self.sums or name in self.rows for name in names_read(a)):
                return [(sign, [*parts, build.apply(op, build.ONE, b)]) for sign, parts in self.terms(a)]
            case Read(tensor=name) if name in self.rows and at_own_axes(part, self.rows[name].axes):
                return self.terms(self.rows[name].body)
            case _:
                return [(1, [part])]

    def term(self, step: Einsum, parts: list[Expr]) -> list[Einsum]:
        """The steps for one product, the last of which is its sum; () if it reads no accumulator along the features."""
        over = set(step.over)
        found = [part for part in parts if isinstance(part, Read) and part.tensor in self.sums and over <= set(free_axes(part))]
        if len(found) != 1 or not at_own_axes(found[0], self.sums[found[0].tensor].axes):
            return []
        sum_ = self.sums[found[0].tensor]
        ((_, inside),) = self.terms(sum_.body) if len(self.terms(sum_.body)) == 1 else ((0, []),)
        values = [part for part in inside if over & set(free_axes(part))]
        if sum_.over != (self.axis,) or not values:
            return []
        others = [part for part in parts if part is not found[0]]
        row = product(part for part in others if over & set(free_axes(part)))
        made: list[Einsum] = []
        if not isinstance(row, Read):
            made.append(Einsum(self.names.fresh(f"d{sum_.name}"), self.axes(row), row, loc=step.loc))
            row = build.read(made[0].name, made[0].axes)
        body = build.mul(row, product(values))
        axes = tuple(axis for axis in self.axes(body) if axis not in over)
        made.append(Einsum(self.names.fresh(f"{step.name}_product"), axes, body, "sum", step.over, sum_.where, step.loc))
        weights = product(part for part in inside if part not in values)
        body = build.mul(weights, build.read(made[-1].name, axes))
        made.append(Einsum(self.names.fresh(f"{step.name}_sum"), step.axes, body, "sum", (self.axis,), sum_.where, step.loc))
        scale = product(part for part in others if not over & set(free_axes(part)))
        total = build.mul(build.read(made[-1].name, step.axes), scale)
        for gauge, count in self.accumulators[sum_.name].weight_power:
            made[-1:-1] = self.norm(self.gauges[gauge])
            for _ in range(count):
                total = build.safe_div(total, self.norms[gauge])
        return [*made, Einsum(self.names.fresh(f"{step.name}_end"), step.axes, total, loc=step.loc)]

    def norm(self, gauge: Gauge) -> list[Einsum]:
        """The steps that sum the weights of a gauge as the backward recomputes them: 1 up to the rounding of the saved statistic, a common
        factor of the row that dividing by this norm cancels."""
        if gauge.name in self.norms:
            return []
        made: list[Einsum] = []

        def recomputed(node: Expr) -> Expr | None:
            if not isinstance(node, Read) or node.tensor not in self.sums:
                return None
            made.append(replace(self.sums[node.tensor], name=self.names.fresh(f"{node.tensor}_end")))
            return Read(made[-1].name, node.at, node.kind)

        bodies = {name: step.body for name, step in self.rows.items()}
        self.norms[gauge.name] = rewrite(inline(gauge.norm, bodies), recomputed)
        return made

    def axes(self, expr: Expr) -> tuple[str, ...]:
        own = set(free_axes(expr))
        return tuple(axis for axis in self.order if axis in own)


# ---- when it matters

ONE_HOT = 0.95
"""From this mean over rows of the largest weight on, dp - delta is so small that the rounding of a stored output dominates it."""
_POSITIONS, _OTHERS = 64, 2
"""Lengths of the sequence axes and of all others at which a bias is sampled."""


def cancellation(streamed: Streamed) -> str:
    """Why dp - delta is known to cancel in most rows; "" if it is not."""
    return _small_divisor(streamed) or _steep_positions(streamed)


def cancelling_gradient(streamed: Streamed, wrt: Collection[str]) -> str:
    """Why a requested gradient is known to cancel, "" if none is: that of a row value added to a normalised exponent is the sum over the
    keys of p * (dp - delta)."""
    bodies = {step.name: step.body for step in streamed.cascade.steps if step.reduce is None}
    for gauge in streamed.gauges:
        for term in counted_terms(inline(build.read(gauge.exponent, ()), bodies)):
            mine = sorted(set(names_read(term)) & set(wrt))
            if mine and streamed.streamed not in free_axes(term):
                return f"{mine[0]} is added to whole rows of {gauge.exponent}"
    return ""


def _small_divisor(streamed: Streamed) -> str:
    """A quotient of sums without a gauge: its divisor has no lower bound."""
    plain = {item.name for item in streamed.accumulators if not item.weight_power}
    for step in streamed.cascade.steps:
        for node in walk(step.body):
            if isinstance(node, Apply) and node.op in ("div", "safe_div") and plain & set(names_read(node.args[0])):
                below = plain & set(names_read(node.args[1]))
                if below:
                    return f"{sorted(below)[0]} divides the output and may be small"
    return ""


def _steep_positions(streamed: Streamed) -> str:
    """A position bias that makes most rows one-hot; captured values are unknown here and taken as 0."""
    bodies = {step.name: step.body for step in streamed.cascade.steps if step.reduce is None}
    for gauge in streamed.gauges:
        found = counted_terms(inline(build.read(gauge.exponent, ()), bodies))
        terms = {term: float(count) for term, count in found.items() if not reads(term)}
        weight = streamed.cascade.step(gauge.weight)
        mask = [part for part in build.conjuncts(weight.where if weight is not None else None) if not reads(part)]
        varies = any(streamed.streamed in free_axes(term) for term in terms)
        if varies and _largest_weight(streamed, linear_sum(terms), build.both(*mask)) > ONE_HOT:
            return f"the positions in {gauge.exponent} leave most rows with one key alone"
    return ""


def _largest_weight(streamed: Streamed, bias: Expr, where: Expr | None) -> float:
    """The mean over rows of the largest softmax weight of a position bias alone, for equal numbers of queries and keys."""
    axes = tuple(dict.fromkeys((*free_axes(bias), *free_axes(where), streamed.resident, streamed.streamed)))
    named = {node.axis for expr in (bias, where) if expr is not None for node in walk(expr) if isinstance(node, Extent)}
    lengths = {axis: _POSITIONS if axis in (streamed.resident, streamed.streamed) else _OTHERS for axis in (*axes, *sorted(named))}
    rows = tuple(axis for axis in axes if axis != streamed.streamed)
    x = build.read("x", axes)
    cascade = Cascade(
        (Input("lengths", tuple(lengths), len(lengths)),),
        (
            Einsum("x", axes, bias, where=where),
            Einsum("top", rows, x, "max", (streamed.streamed,), where),
            Einsum("sum", rows, build.exp(build.sub(x, build.read("top", rows))), "sum", (streamed.streamed,), where),
        ),
        ("sum",),
    )
    found = interpret(cascade, {"lengths": np.zeros(tuple(lengths.values()))})["sum"]
    largest = [1.0 / float(value) for value in np.ravel(found) if value > 0]
    return sum(largest) / len(largest) if largest else 0.0

"""Delta from the weights instead of from the output: a sweep of its own over the keys, in place of a sum over a rounded row.

    delta[m]  = sum[e] do[m,e] * o[m,e]                  dp[m,n]  = sum[e] do[m,e] * v[n,e]
                                              ->         delta[m] = sum[n] p[m,n] * dp[m,n]

Both are sum[n,e] do * p * v, added up in different orders. A stored output is rounded to the dtype of the arguments, and dp - delta loses
what they have in common: where one weight of a row is nearly 1, or where a divisor is small, little but the rounding is left. In the second
form delta is made of the very products that it is subtracted from, in the type of sums. It costs two products a tile, and o is not saved.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.ir import build
from attngen.ir.algebra import product, signed_factors, signed_terms
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, names_read
from attngen.transform.gauges import at_own_axes
from attngen.transform.streaming import Streamed


def exchange_sums(streamed: Streamed, whole: Cascade) -> Cascade:
    """Sums over features of something times an accumulator, as sums over the keys of a weight times a product.

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
        accumulators = {item.name for item in streamed.accumulators}
        self.sums = {step.name: step for step in streamed.cascade.steps if step.name in accumulators}
        self.rows = {step.name: step for step in streamed.cascade.steps if step.reduce is None and step.where is None}
        self.rows = {name: step for name, step in self.rows.items() if self.axis not in step.axes}

    def step(self, step: Einsum) -> list[Einsum]:
        """The steps in place of one: itself, where nothing can be exchanged."""
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
        """An expression as products with signs; a quotient is its numerator and one over its divisor, a row value what it is made of."""
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
        """The steps for one product; the last of them is its sum. () where it holds no accumulator along the features."""
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
        scale = product(part for part in others if not over & set(free_axes(part)))
        body = build.mul(build.mul(weights, build.read(made[-1].name, axes)), scale)
        made.append(Einsum(self.names.fresh(f"{step.name}_sum"), step.axes, body, "sum", (self.axis,), sum_.where, step.loc))
        return made

    def axes(self, expr: Expr) -> tuple[str, ...]:
        own = set(free_axes(expr))
        return tuple(axis for axis in self.order if axis in own)

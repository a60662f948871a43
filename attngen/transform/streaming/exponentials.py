"""Rewrites a reduction body for separation: exponentials and differences of streamed and running values are expressed by a gauge.

    exp(x - Z)       becomes   w / norm                       Z = m_i + log(norm) shifts with the gauge of x
    k * (x - Z)      becomes   k * (y - log(norm))            without cancellation for large x
    exp(x - r)       becomes   w / norm * exp(Z - r)          for any other running r

Equal in every row with an unmasked element. Fully masked rows have empty sums, and the rewrite introduces no NaN there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attngen.ir import build
from attngen.ir.algebra import collected, linear, linear_sum
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.traverse import once_a_node
from attngen.transform.streaming.gauges import OpenGauge, Sums

_LARGEST_POWER = 4
_ADDITIVE = frozenset(("add", "sub", "neg"))


class Rewriter:
    """The rewriter of one body. `spelled` gives the original of each rewritten expression."""

    def __init__(self, sums: Sums, step: Einsum) -> None:
        self.sums = sums
        self.step = step
        self.spelled: dict[Expr, Expr] = {}
        self.rewrite = once_a_node(self.exposed)
        self.expand = once_a_node(self.expanded)

    def exposed(self, expr: Expr, _: Callable[[Expr], Expr]) -> Expr:
        """The expression with gauges exposed."""
        if not self.sums.reads_running(expr):
            return expr
        new = self.changed(expr)
        if new != expr:
            self.spelled.setdefault(new, expr)
        return new

    def changed(self, expr: Expr) -> Expr:
        match expr:
            case Apply(op="log", args=(Apply(op="exp", args=(inner,)),)):
                return self.rewrite(inner)
            case Apply(op="log2", args=(Apply(op="exp", args=(inner,)),)):
                return build.mul(self.rewrite(inner), build.const(1.0 / math.log(2.0)))
            case Apply(op="exp", args=(inner,)):
                return self.exponential(inner)
            case Apply(op="exp2", args=(inner,)) if self.sums.is_streamed(inner):
                return self.exponential(build.mul(inner, build.const(math.log(2.0))))
            case Apply(op="add" | "sub"):
                return self.difference(expr)
            case Apply(op=op, args=args):
                return build.apply(op, *(self.rewrite(arg) for arg in args))
            case _:
                return expr

    # ---- exp

    def exponential(self, exponent: Expr) -> Expr:
        sums = self.sums
        terms = linear(exponent, self.expand)
        running = {term: c for term, c in terms.items() if sums.reads_running(term)}
        streamed = {term: c for term, c in terms.items() if term not in running and sums.is_streamed(term)}
        known = {term: c for term, c in terms.items() if term not in running and term not in streamed}
        if not streamed or not running or any(sums.is_streamed(term) for term in running):
            return build.exp(self.rewrite(exponent))
        gauge, power = self.gauge(streamed, running)
        shift = self.choose(gauge, running)
        norm = sums.shifts[shift][1]
        rest = {**running, **known}
        rest[sums.read(shift)] = rest.get(sums.read(shift), 0.0) + power
        result: Expr = build.ONE
        for _ in range(power):
            result = build.safe_div(build.mul(result, sums.read(gauge.weight)), norm)
        return self.scaled(result, {term: c for term, c in rest.items() if c != 0}, sums.read(shift))

    def expanded(self, term: Expr, _: Callable[[Expr], dict[Expr, float] | None]) -> dict[Expr, float] | None:
        """Row values by their definition, and products of a known value with a sum that mixes, term by term."""
        sums = self.sums
        match term:
            case Read(tensor=name) if name in sums.rows and name not in sums.shifts:
                body = sums.rows[name]
                return linear(body, self.expand) if isinstance(body, Apply) and body.op in _ADDITIVE else None
            case Apply(op="mul", args=(a, b)) if self.mixes(b) and not sums.reads_running(a):
                return collected((build.mul(a, t), c) for t, c in linear(b, self.expand).items())
            case Apply(op="mul", args=(a, b)) if self.mixes(a) and not sums.reads_running(b):
                return collected((build.mul(t, b), c) for t, c in linear(a, self.expand).items())
            case Apply(op="div", args=(a, b)) if self.mixes(a) and not sums.reads_running(b):
                return collected((build.apply("div", t, b), c) for t, c in linear(a, self.expand).items())
            case _:
                return None

    def mixes(self, expr: Expr) -> bool:
        additive = isinstance(expr, Apply) and expr.op in _ADDITIVE
        return additive and self.sums.reads_running(expr) and self.sums.is_streamed(expr)

    def gauge(self, streamed: dict[Expr, float], running: dict[Expr, float]) -> tuple[OpenGauge, int]:
        """The gauge of the streamed part, and the power of its weight."""
        x, power = next(iter(streamed.items()))
        if len(streamed) == 1 and power in range(1, _LARGEST_POWER + 1):
            for term in running:
                gauge = self.gauge_of_shift(term)
                if gauge is not None and gauge.spelled == x:
                    return gauge, int(power)
        return self.sums.gauge(linear_sum(streamed), self.step), 1

    def gauge_of_shift(self, term: Expr) -> OpenGauge | None:
        """The gauge that a row value shifts with, if its weight exists wherever this step does."""
        if not (isinstance(term, Read) and term.tensor in self.sums.shifts):
            return None
        gauge = self.sums.shifts[term.tensor][0]
        return gauge if gauge.covers(self.step.where) else None

    def choose(self, gauge: OpenGauge, running: dict[Expr, float]) -> str:
        """The row value to subtract: one that cancels, or else any. The backward evaluates the gauge at the first one used."""
        for term in running:
            if isinstance(term, Read) and term.tensor in self.sums.shifts and self.sums.shifts[term.tensor][0] is gauge:
                if not gauge.used:
                    gauge.used, gauge.value, gauge.norm = True, term.tensor, self.sums.shifts[term.tensor][1]
                return term.tensor
        return self.sums.shift_of(gauge)

    def scaled(self, result: Expr, terms: dict[Expr, float], shift: Read) -> Expr:
        """`result * exp(terms)`; logarithms become factors, and a fully masked row gives 0."""
        rest: dict[Expr, float] = {}
        for term, c in terms.items():
            if isinstance(term, Apply) and term.op == "log" and c.is_integer() and abs(c) <= _LARGEST_POWER:
                for _ in range(abs(int(c))):
                    result = (build.mul if c > 0 else build.safe_div)(result, term.args[0])
            else:
                rest[term] = c
        if not rest:
            return result
        factor = build.exp(linear_sum(rest))
        if self.sums.reads_running(factor):
            factor = build.apply("where", build.apply("eq", shift, build.NEG_INF), build.ZERO, factor)
        return build.mul(result, factor)

    # ---- differences

    def difference(self, expr: Expr) -> Expr:
        sums = self.sums
        terms = linear(expr, self.expand_rows)
        own = linear(expr)
        paired = False
        for term, c in list(terms.items()):
            gauge = self.gauge_of_shift(term)
            x = None if gauge is None else gauge.spelled
            if gauge is None or x is None or not isinstance(term, Read) or terms.get(x) != -c:
                continue
            del terms[x], terms[term]
            norm, offset = build.log(sums.shifts[term.tensor][1]), sums.offset(gauge)
            terms[offset] = terms.get(offset, 0.0) - c
            terms[norm] = terms.get(norm, 0.0) + c
            paired = True
        if not paired:
            return build.apply(expr.op, *(self.rewrite(arg) for arg in expr.args)) if isinstance(expr, Apply) else expr
        return linear_sum(collected((self.rewrite(term) if term in own else self.finite(term), c) for term, c in terms.items() if c != 0))

    def expand_rows(self, term: Expr) -> dict[Expr, float] | None:
        return self.expand(term) if isinstance(term, Read) else None

    def finite(self, term: Expr) -> Expr:
        """The logarithm of a norm, 0 where the norm is 0: in a fully masked row 0 times -inf must not become NaN."""
        if isinstance(term, Apply) and term.op == "log" and self.sums.reads_running(term):
            return build.apply("where", build.apply("eq", term.args[0], build.ZERO), build.ZERO, term)
        return term

"""Sums and products of expressions: splitting, expanding and collecting terms. Independent of steps and axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr
from attngen.ir.traverse import once_a_node

Bag = frozenset[tuple[Expr, int]]
"""A multiset of factors or terms: each with its count."""


def factors(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product, from left to right."""
    if isinstance(expr, Apply) and expr.op == "mul":
        return (*factors(expr.args[0]), *factors(expr.args[1]))
    return (expr,)


def bag(parts: Iterable[Expr]) -> Bag:
    """The multiset of factors or terms."""
    return frozenset(Counter(parts).items())


def signed_factors(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product, the first one carrying its sign."""
    match expr:
        case Apply(op="mul", args=(a, b)):
            return (*signed_factors(a), *signed_factors(b))
        case Apply(op="neg", args=(a,)):
            first, *rest = signed_factors(a)
            return (build.neg(first), *rest)
        case _:
            return (expr,)


def product(parts: Iterable[Expr], coefficient: float = 1.0) -> Expr:
    """The product of factors and a coefficient; the coefficient alone if there are no factors."""
    result: Expr = build.ONE
    for part in parts:
        result = build.mul(result, part)
    return build.mul(result, build.const(coefficient))


def signed_terms(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The terms of a sum, each with its sign, +1 or -1."""
    match expr:
        case Apply(op="add", args=(a, b)):
            return [*signed_terms(a, sign), *signed_terms(b, sign)]
        case Apply(op="sub", args=(a, b)):
            return [*signed_terms(a, sign), *signed_terms(b, -sign)]
        case Apply(op="neg", args=(a,)):
            return signed_terms(a, -sign)
        case _:
            return [(sign, expr)]


def counted_terms(expr: Expr) -> dict[Expr, int]:
    """The terms of a sum, as `signed_terms` has them, with how often each is added; once a node, where a sum is added to itself."""

    def counts(node: Expr, visit: Callable[[Expr], dict[Expr, int]]) -> dict[Expr, int]:
        match node:
            case Apply(op="add" | "sub" as op, args=(a, b)):
                parts = ((1, visit(a)), (1 if op == "add" else -1, visit(b)))
            case Apply(op="neg", args=(a,)):
                parts = ((-1, visit(a)),)
            case _:
                return {node: 1}
        found: Counter[Expr] = Counter()
        for sign, terms in parts:
            for term, count in terms.items():
                found[term] += sign * count
        return found

    return once_a_node(counts)(expr)


def signed_sum(terms: Iterable[tuple[int, Expr]]) -> Expr:
    """The inverse of `signed_terms`."""
    return build.total([term if sign > 0 else build.neg(term) for sign, term in terms])


def times(parts: Iterable[Expr]) -> Expr:
    """The product of factors, an integer if all are; 1.0 for none."""
    return reduce(build.mul, parts) if (parts := tuple(parts)) else build.ONE


def over(expr: Expr, scale: Expr) -> Expr:
    """expr / scale, as a product if the reciprocal of the scale folds."""
    match scale:
        case Const(value=value):
            return build.mul(expr, build.const(1.0 / value))
        case Apply(op="pow", args=(base, Const(value=power))):
            return build.mul(expr, build.apply("pow", base, build.const(-power)))
        case _:
            return build.apply("div", expr, scale)


@dataclass(frozen=True, slots=True)
class Product:
    """coefficient * product of factors, in order of appearance."""

    coefficient: float
    factors: tuple[Expr, ...]

    @property
    def expr(self) -> Expr:
        """As an expression."""
        if not self.factors:
            return build.const(self.coefficient)
        value = times(self.factors)
        return value if self.coefficient == 1.0 else build.mul(build.const(self.coefficient), value)

    def times(self, other: Product) -> Product:
        """The product of two products."""
        return Product(self.coefficient * other.coefficient, (*self.factors, *other.factors))


def products(expr: Expr, expand: Callable[[Expr], tuple[Product, ...] | None]) -> tuple[Product, ...]:
    """An expression expanded into a sum of products.

    Args:
        expand: the sum of products to substitute for a factor; None to treat it as atomic.
    """
    match expr:
        case Const(value=value, kind="int" | "float"):
            return (Product(float(value), ()),)
        case Apply(op="add", args=(a, b)):
            return (*products(a, expand), *products(b, expand))
        case Apply(op="sub", args=(a, b)):
            return (*products(a, expand), *products(build.neg(b), expand))
        case Apply(op="neg", args=(a,)):
            return tuple(replace(item, coefficient=-item.coefficient) for item in products(a, expand))
        case Apply(op="to_float", args=(a,)):
            return products(a, expand)
        case Apply(op="mul", args=(a, b)):
            return tuple(left.times(right) for left in products(a, expand) for right in products(b, expand))
        case Apply(op="pow", args=(a, Const(value=2))):
            return products(build.mul(a, a), expand)
        case Apply(op="div", args=(a, b)):
            over = Product(1.0, (build.apply("div", build.ONE, b),)) if not isinstance(b, Const) else Product(1.0 / b.value, ())
            return tuple(item.times(over) for item in products(a, expand))
        case _:
            found = expand(expr)
            return (Product(1.0, (expr,)),) if found is None else found


def _opaque(term: Expr) -> Mapping[Expr, float] | None:
    return None


def linear(expr: Expr, expand: Callable[[Expr], Mapping[Expr, float] | None] = _opaque) -> dict[Expr, float]:
    """An expression as terms with constant coefficients.

    Args:
        expand: the linear form to substitute for a term; None to treat it as atomic.
    """
    sums: list[Expr] = []
    terms: list[Expr] = []
    met: dict[int, tuple[_Share, ...]] = {}

    def visit(node: Expr) -> None:
        if id(node) in met:
            return
        met[id(node)] = _scaled_parts(node)
        for _, _, part in met[id(node)]:
            visit(part)
        (sums if met[id(node)] else terms).append(node)

    visit(expr)
    scales: dict[int, float] = dict.fromkeys(met, 0.0) | {id(expr): 1.0}
    for node in reversed(sums):
        for factor, divisor, part in met[id(node)]:
            scales[id(part)] += scales[id(node)] * factor / divisor
    result: dict[Expr, float] = {}
    for node in terms:
        inner = expand(node)
        for term, coefficient in ({node: 1.0} if inner is None else inner).items():
            result[term] = result.get(term, 0.0) + scales[id(node)] * coefficient
    return {term: coefficient for term, coefficient in result.items() if coefficient != 0}


_Share = tuple[float, float, Expr]
"""A factor, a divisor, and what they apply to."""


def _scaled_parts(expr: Expr) -> tuple[_Share, ...]:
    """What a sum or a multiple is made of; nothing for a term."""
    match expr:
        case Apply(op="add", args=(a, b)):
            return (1.0, 1.0, a), (1.0, 1.0, b)
        case Apply(op="sub", args=(a, b)):
            return (1.0, 1.0, a), (-1.0, 1.0, b)
        case Apply(op="neg", args=(a,)):
            return ((-1.0, 1.0, a),)
        case Apply(op="mul", args=(Const(value=value, kind="int" | "float"), a)):
            return ((value, 1.0, a),)
        case Apply(op="mul", args=(a, Const(value=value, kind="int" | "float"))):
            return ((value, 1.0, a),)
        case Apply(op="div", args=(a, Const(value=value, kind="int" | "float"))) if value != 0:
            return ((1.0, value, a),)
        case _:
            return ()


def collected(parts: Iterable[tuple[Expr, float]]) -> dict[Expr, float]:
    """Terms with constant coefficients, equal terms merged."""
    result: dict[Expr, float] = {}
    for term, coefficient in parts:
        result[term] = result.get(term, 0.0) + coefficient
    return result


def linear_sum(terms: Mapping[Expr, float]) -> Expr:
    """The inverse of `linear`."""
    return build.total([build.mul(term, build.const(coefficient)) for term, coefficient in terms.items()])

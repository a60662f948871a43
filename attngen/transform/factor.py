"""Factoring of sums: copy propagation, and factors that are invariant along the reduced axis hoisted out of the sum.

    ds[m,n] = dx[m,n] * scale                       dq_sum[m,d] = sum[n] dx[m,n] * k[n,d]
    dq[m,d] = sum[n] ds[m,n] * k[n,d]      ->       dq[m,d]     = dq_sum[m,d] * scale

    du[m,e] = do[m,e] * lam                         dw_sum[m,n] = sum[e] do[m,e] * v[n,e]
    dw[m,n] = sum[e] du[m,e] * v[n,e]      ->       dw[m,n]     = dw_sum[m,n] * lam

    ds[m,n] = dx[m,n] * y[m,n] * scale     ->       ds_part[m,n] = dx[m,n] * y[m,n], and so on

One multiplication per element becomes one per row, and sums that differ by such a factor become one dot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from attngen.analysis.predicates import Guards, contributions, guards, known, mask_of, without
from attngen.ir import build
from attngen.ir.algebra import bag, factors, product
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Const, Expr, Index, Read, kind_of
from attngen.ir.names import Names
from attngen.ir.traverse import free_axes, live_steps, rewrite
from attngen.transform.canonicalize import share


def factor(cascade: Cascade, features: tuple[str, ...] = ()) -> Cascade:
    """Takes and gives a gradient cascade with the same outputs.

    Args:
        cascade: the gradients.
        features: the feature axes; sums over them become dots, formed before sums over other axes.
    """
    cascade = _scales_apart(_dots_apart(_through_copies(cascade), features))
    short = _shorten(cascade, lambda factor: True)
    if not _keeps_existence(cascade, short):
        # Hoisting a masked factor would mask the whole sum where another term is added.
        exists = guards(cascade)
        short = _shorten(cascade, lambda factor: known(factor, exists) is None)
    short = share(short)
    return replace(short, steps=live_steps(short))


def _through_copies(cascade: Cascade) -> Cascade:
    alias: dict[str, Read] = {}

    def rule(node: Expr) -> Expr | None:
        return alias.get(node.tensor) if isinstance(node, Read) else None

    steps: list[Einsum] = []
    for step in cascade.steps:
        step = replace(step, body=rewrite(step.body, rule), where=None if step.where is None else rewrite(step.where, rule))
        body = step.body
        plain = isinstance(body, Read) and body.at == tuple(Index(axis) for axis in step.axes)
        if plain and step.reduce is None and step.where is None and step.name not in cascade.outputs and isinstance(body, Read):
            alias[step.name] = body
        else:
            steps.append(step)
    return replace(cascade, steps=tuple(steps))


def _dots_apart(cascade: Cascade, features: tuple[str, ...]) -> Cascade:
    """Split sums over features and other axes: a dot over the features, then a sum of its tile over the other axes."""
    names = Names(cascade)
    steps: list[Einsum] = []
    for step in cascade.steps:
        inner = tuple(axis for axis in step.over if axis in features)
        outer = tuple(axis for axis in step.over if axis not in inner)
        if step.reduce == "sum" and inner and outer and not set(free_axes(step.where)) & set(inner):
            found = [_dot(term, step, inner, names) for term in _terms(step.body, step, {})]
            if all(item is not None for item in found):
                dots = [item for item in found if item is not None]
                steps += [dot for dot, _ in dots]
                step = replace(step, body=build.total([body for _, body in dots]), over=outer)
        steps.append(step)
    return replace(cascade, steps=tuple(steps))


def _dot(term: _Term, step: Einsum, inner: tuple[str, ...], names: Names) -> tuple[Einsum, Expr] | None:
    """The dot of the factors along the features, and the remaining body; None if either is empty, or a factor lacks a feature axis."""
    wide = tuple(factor for factor in term.factors if set(free_axes(factor)) & set(inner))
    rest = tuple(factor for factor in term.factors if factor not in wide)
    if not wide or not rest or not all(set(inner) <= set(free_axes(factor)) for factor in wide):
        return None
    held = {axis for factor in wide for axis in free_axes(factor)}
    axes = tuple(axis for axis in (*step.axes, *step.over) if axis in held and axis not in inner)
    part = Einsum(names.fresh(f"{step.name}_dot"), axes, product(wide), "sum", inner, loc=step.loc)
    return part, build.mul(build.read(part.name, axes), product(rest, term.coefficient))


def _shorten(cascade: Cascade, may_leave: Callable[[Expr], bool]) -> Cascade:
    exists = guards(cascade)
    pointwise = [step for step in cascade.steps if step.reduce is None and _adds_no_mask(step, exists)]
    products = {step.name: step.body for step in pointwise if _is_product(step.body)}
    names = Names(cascade)
    return replace(cascade, steps=tuple(short for step in cascade.steps for short in _shortened(step, products, names, may_leave)))


def _scales_apart(cascade: Cascade) -> Cascade:
    """Split products into a step of full-rank factors and a step of narrow ones, so that sums can hoist the narrow ones."""
    names = Names(cascade)
    steps: list[Einsum] = []
    for step in cascade.steps:
        parts = factors(step.body)
        wide = tuple(part for part in parts if set(free_axes(part)) >= set(step.axes))
        if step.reduce is None and len(wide) > 1 and len(wide) < len(parts):
            inner = replace(step, name=names.fresh(f"{step.name}_part"), body=product(wide))
            narrow = product(part for part in parts if part not in wide)
            steps += [inner, replace(step, body=build.mul(build.read(inner.name, inner.axes), narrow))]
        else:
            steps.append(step)
    return replace(cascade, steps=tuple(steps))


def _adds_no_mask(step: Einsum, exists: Guards) -> bool:
    """Whether the predicate of a step is implied by the guards of its reads."""
    return without(step.where, mask_of(known(step.body, exists))) is None


def _keeps_existence(before: Cascade, after: Cascade) -> bool:
    """Whether outputs and sums have unchanged guards. A product may exist at fewer elements: it is 0 at the others."""
    was, now = guards(before), guards(after)
    sums = [step for step in before.steps if not _is_product(step.body)]
    outputs = [name for name in before.outputs if name in was]
    same = all(mask_of(contributions(step, was)) == mask_of(contributions(step, now)) for step in sums)
    return same and all(mask_of(was[name]) == mask_of(now[name]) for name in outputs)


def _is_product(body: Expr) -> bool:
    return isinstance(body, Apply) and body.op in ("mul", "neg")


@dataclass(frozen=True, slots=True)
class _Term:
    """coefficient * product of factors."""

    coefficient: float
    factors: tuple[Expr, ...]


def _shortened(step: Einsum, products: dict[str, Expr], names: Names, may_leave: Callable[[Expr], bool]) -> list[Einsum]:
    if step.reduce != "sum" or kind_of(step.body) != "float":
        return [step]
    terms = _merged(_terms(step.body, step, products))
    if not terms:
        return [replace(step, body=build.ZERO, reduce=None, over=(), where=None)]
    if len(terms) > 1 and not _common(terms) and _is_one_side(terms):
        return [step]

    def invariant(term: _Term) -> tuple[Expr, ...]:
        """The factors invariant along the reduced axes; () if all are, so that the sum keeps a body."""
        outside = tuple(factor for factor in term.factors if not set(free_axes(factor)) & set(step.over) and may_leave(factor))
        return outside if len(outside) < len(term.factors) else ()

    found = [_hoisted(group, invariant) for group in _groups(terms, invariant)]
    ((outside, coefficient, body), *more) = found
    if not more and not outside and coefficient == 1.0:
        return [replace(step, body=body)]
    sums: list[Einsum] = []
    result: Expr = build.ZERO
    for outside, coefficient, body in found:
        part = replace(step, name=names.fresh(f"{step.name}_sum"), body=body)
        sums.append(part)
        result = build.add(result, build.mul(build.read(part.name, step.axes), product(outside, coefficient)))
    return [*sums, replace(step, body=result, reduce=None, over=(), where=None)]


def _groups(terms: list[_Term], invariant: Callable[[_Term], tuple[Expr, ...]]) -> list[list[_Term]]:
    """Terms to add in one sum: all if they differ in one operand only, else those with equal invariant factors, else each alone."""
    if _is_one_side([_without(term, _common(terms)) for term in terms]):
        return [terms]
    groups: dict[frozenset[tuple[Expr, int]], list[_Term]] = {}
    for term in terms:
        groups.setdefault(bag(invariant(term)), []).append(term)
    if len(groups) > 1:
        return [part for group in groups.values() for part in _groups(group, invariant)]
    return [[term] for term in terms]


def _hoisted(terms: list[_Term], invariant: Callable[[_Term], tuple[Expr, ...]]) -> tuple[tuple[Expr, ...], float, Expr]:
    """One sum: its hoisted factors, its coefficient and its body."""
    if len(terms) == 1:
        outside = invariant(terms[0])
        return outside, terms[0].coefficient, product(_without(terms[0], outside).factors)
    common = _common(terms)
    rest = build.total([product(term.factors, term.coefficient) for term in (_without(term, common) for term in terms)])
    whole = _Term(1.0, (*common, rest))
    outside = invariant(whole)
    return outside, 1.0, product(_without(whole, outside).factors)


def _merged(terms: list[_Term]) -> list[_Term]:
    """Terms with equal factors merged."""
    found: dict[frozenset[tuple[Expr, int]], _Term] = {}
    for term in terms:
        key = bag(term.factors)
        found[key] = replace(term, coefficient=term.coefficient + (found[key].coefficient if key in found else 0.0))
    return [term for term in found.values() if term.coefficient != 0.0]


def _common(terms: list[_Term]) -> tuple[Expr, ...]:
    """The factors that all terms share."""
    shared = Counter(terms[0].factors)
    for term in terms[1:]:
        shared &= Counter(term.factors)
    return tuple(shared.elements())


def _is_one_side(terms: list[_Term]) -> bool:
    """Whether a sum of terms varies along the axes of a single one of its factors, so that it can be one operand of a dot."""
    if len(terms) == 1:
        return True
    axes = [set(free_axes(factor)) for term in terms for factor in term.factors]
    return not axes or set().union(*axes) in axes


def _terms(expr: Expr, step: Einsum, products: dict[str, Expr]) -> list[_Term]:
    """A body as a sum of products; earlier pointwise steps that only scale a value are inlined."""
    match expr:
        case Apply(op="add", args=(a, b)):
            return [*_terms(a, step, products), *_terms(b, step, products)]
        case Apply(op="sub", args=(a, b)):
            return [*_terms(a, step, products), *(_scaled(term, -1.0) for term in _terms(b, step, products))]
        case Apply(op="neg", args=(a,)):
            return [_scaled(term, -1.0) for term in _terms(a, step, products)]
        case Apply(op="mul", args=(a, b)):
            left, right = _one_term(a, step, products), _one_term(b, step, products)
            return [_Term(left.coefficient * right.coefficient, (*left.factors, *right.factors))]
        case Const(value=value, kind="float" | "int"):
            return [_Term(float(value), ())]
        case Read(tensor=name) if name in products and _only_scales(products[name]):
            return _terms(products[name], step, products)
        case _:
            return [_Term(1.0, (expr,))]


def _one_term(expr: Expr, step: Einsum, products: dict[str, Expr]) -> _Term:
    """The expression as one product; a sum is one factor."""
    terms = _terms(expr, step, products)
    return terms[0] if len(terms) == 1 else _Term(1.0, (expr,))


def _only_scales(body: Expr) -> bool:
    """Whether the product is one read times factors that vary along fewer axes."""
    *others, widest = sorted(_plain_factors(body), key=lambda factor: len(free_axes(factor)))
    return isinstance(widest, Read) and all(len(free_axes(factor)) < len(free_axes(widest)) for factor in others)


def _plain_factors(expr: Expr) -> list[Expr]:
    match expr:
        case Apply(op="mul", args=(a, b)):
            return [*_plain_factors(a), *_plain_factors(b)]
        case Apply(op="neg", args=(a,)):
            return _plain_factors(a)
        case _:
            return [expr]


def _scaled(term: _Term, scale: float) -> _Term:
    return replace(term, coefficient=term.coefficient * scale)


def _without(term: _Term, common: tuple[Expr, ...]) -> _Term:
    factors = list(term.factors)
    for factor in common:
        factors.remove(factor)
    return replace(term, factors=tuple(factors))

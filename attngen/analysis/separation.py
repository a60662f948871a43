# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
"""Separation: a reduction body as a sum of products, streamed times running.

    F(streamed, running, known) = sum_j G_j(streamed, known) * H_j(running, known)

A reduction whose body separates needs one pass: the G_j are accumulated in the loop, the H_j applied in the epilogue. Only a factor of both
streamed and running values prevents that, and the error names it. Every maximal subexpression without a running value becomes a symbol
before expansion, so `exp(x - L)` with a known L is never split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy

from attngen.errors import NotStreamable
from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr
from attngen.ir.printer import print_expr
from attngen.ir.traverse import names_read, once_a_node
from attngen.source import SourceLoc

_RING = frozenset(("add", "sub", "mul", "neg", "div", "safe_div", "pow"))
_LARGEST_POWER = 8
_LARGEST_DEGREE = 64


@dataclass(frozen=True, slots=True)
class Term:
    """One product: `streamed` is accumulated, `running` multiplies the finished sum."""

    streamed: Expr
    running: Expr


@dataclass(frozen=True, slots=True)
class Symbols:
    """Classification of the names in a body.

    Attributes:
        is_running: whether a tensor depends on a reduction over the streamed axis.
        is_streamed: whether an expression varies along the streamed axis.
        stands_alone: whether a tensor must become a factor of its own (weights and offsets of gauges).
        spelled: the original of each rewritten subexpression, for errors.
        text: prints an expression in the user's names, for errors.
    """

    is_running: Callable[[str], bool]
    is_streamed: Callable[[Expr], bool]
    stands_alone: Callable[[str], bool] = lambda name: False
    spelled: Mapping[Expr, Expr] | None = None
    text: Callable[[Expr], str] = print_expr


def separate(body: Expr, symbols: Symbols, loc: SourceLoc | None = None) -> tuple[Term, ...]:
    """Separate a body; the number of terms is the rank of the reduction.

    Args:
        body: with all running steps along the streamed axis inlined.
        symbols: classification of its names.
        loc: the user's line, for the error.

    Raises:
        NotStreamable: a factor mixes streamed and running values.
    """
    hidden = _Hidden(symbols, loc)
    if _degree(body) > _LARGEST_DEGREE:
        raise NotStreamable(
            f"one pass would need a sum for each power of the weights: the values to sum are a polynomial of degree {_degree(body)}",
            loc=loc,
            remedy=f"Use powers up to {_LARGEST_DEGREE}, or compute the weights in a call of their own.",
        )
    polynomial = sympy.expand(hidden.hide(body))
    by_streamed: dict[sympy.Expr, sympy.Expr] = {}
    for term in sympy.Add.make_args(polynomial):
        streamed, running = sympy.Integer(1), sympy.Integer(1)
        for factor in sympy.Mul.make_args(term):
            if factor.free_symbols & hidden.streamed_symbols:
                streamed *= factor
            else:
                running *= factor
        by_streamed[streamed] = by_streamed.get(streamed, sympy.Integer(0)) + running
    pairs = [(g, h) for g, h in by_streamed.items() if h != 0]
    pairs.sort(key=lambda pair: (sympy.count_ops(pair[0]), str(pair[0])), reverse=True)
    return tuple(Term(hidden.show(g), hidden.show(h)) for g, h in pairs)


def _degree(body: Expr) -> int:
    """The largest number of factors in a term of the multiplied out expression."""

    def degree(node: Expr, visit: Callable[[Expr], int]) -> int:
        match node:
            case Apply(op="add" | "sub", args=(a, b)):
                return max(visit(a), visit(b))
            case Apply(op="mul", args=(a, b)):
                return visit(a) + visit(b)
            case Apply(op="neg", args=(a,)) | Apply(op="div" | "safe_div", args=(a, _)):
                return visit(a)
            case Apply(op="pow", args=(a, Const(value=power))) if 0 < power <= _LARGEST_POWER:
                return visit(a) * math.ceil(power)
            case _:
                return 0 if isinstance(node, Const) else 1

    return once_a_node(degree)(body)


class _Hidden:
    """Symbols for subexpressions, numbered in order of appearance, so that results are deterministic."""

    def __init__(self, known: Symbols, loc: SourceLoc | None) -> None:
        self.known = known
        self.loc = loc
        self.symbols: dict[Expr, sympy.Symbol] = {}
        self.meaning: dict[sympy.Expr, Expr] = {}
        self.streamed_symbols: set[sympy.Symbol] = set()
        self.hide = once_a_node(self.hidden)

    def symbol(self, expr: Expr) -> sympy.Symbol:
        if expr not in self.symbols:
            symbol = sympy.Symbol(f"x{len(self.symbols):03d}", real=True)
            self.symbols[expr] = symbol
            self.meaning[symbol] = expr
            if self.known.is_streamed(expr):
                self.streamed_symbols.add(symbol)
        return self.symbols[expr]

    def reads_running(self, expr: Expr) -> bool:
        return any(self.known.is_running(name) for name in names_read(expr))

    def whole(self, expr: Expr) -> bool:
        """Whether an expression may become one symbol."""
        names = names_read(expr)
        return not any(self.known.is_running(name) or self.known.stands_alone(name) for name in names)

    def hidden(self, expr: Expr, _: Callable[[Expr], sympy.Expr]) -> sympy.Expr:
        if isinstance(expr, Const) and expr.kind == "int":
            return sympy.Integer(int(expr.value))
        if isinstance(expr, Const) and expr.kind == "float" and float(expr.value).is_integer() and abs(expr.value) < 2**31:
            return sympy.Integer(int(expr.value))
        if not (isinstance(expr, Apply) and expr.op in _RING) or (self.whole(expr) and expr.op not in ("mul", "neg")):
            return self.opaque(expr)
        match expr:
            case Apply(op="add", args=(a, b)):
                return self.hide(a) + self.hide(b)
            case Apply(op="sub", args=(a, b)):
                return self.hide(a) - self.hide(b)
            case Apply(op="mul", args=(a, b)):
                return self.hide(a) * self.hide(b)
            case Apply(op="neg", args=(a,)):
                return -self.hide(a)
            case Apply(op="pow", args=(a, Const(value=power))) if float(power).is_integer() and 0 < power <= _LARGEST_POWER:
                return self.hide(a) ** int(power)
            case Apply(op="div" | "safe_div" as op, args=(a, b)) if not (self.known.is_streamed(b) and self.reads_running(b)):
                return self.hide(a) * self.symbol(Apply(op, (build.ONE, b)))
            case _:
                return self.opaque(expr)

    def opaque(self, expr: Expr) -> sympy.Symbol:
        if self.reads_running(expr) and self.known.is_streamed(expr):
            raise NotStreamable(
                f"one pass cannot compute this reduction: the factor {self.known.text(self.spelled(expr))} mixes values of the current "
                "element with values known only after all elements",
                loc=self.loc,
                remedy="Rewrite it as a sum of products whose factors hold one kind each (exp(a - b) separates by itself), "
                "or pass the reduced value in as an input, computed by a first call.",
            )
        return self.symbol(expr)

    def spelled(self, expr: Expr) -> Expr:
        return expr if self.known.spelled is None else self.known.spelled.get(expr, expr)

    def show(self, expr: sympy.Expr) -> Expr:
        """Back to the IR: factors in symbol order, reciprocals merged into divisions."""
        terms = sorted(sympy.Add.make_args(expr), key=str)
        return build.total([self.show_product(term) for term in terms]) if len(terms) > 1 else self.show_product(terms[0])

    def show_product(self, term: sympy.Expr) -> Expr:
        coefficient, rest = term.as_coeff_Mul()
        result: Expr = Const(float(coefficient), "float")
        divisions: list[Apply] = []
        for factor in sorted(sympy.Mul.make_args(rest), key=str):
            base, power = factor.as_base_exp()
            if base == 1:
                continue
            if base not in self.meaning:
                result = build.mul(result, self.show(base))
                continue
            meaning = self.meaning[base]
            for _ in range(int(power)):
                if isinstance(meaning, Apply) and meaning.op in ("div", "safe_div") and meaning.args[0] == build.ONE:
                    divisions.append(meaning)
                else:
                    result = build.mul(result, meaning)
        for division in divisions:
            result = build.apply(division.op, result, division.args[1])
        return result

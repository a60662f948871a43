"""Bias separation: row terms are hoisted out of the tile, and the rest becomes products of a row value and a key value.

x[m,n] = s[m,n] * c + slope * (n - m)        ->   z[m,n]   = s[m,n] + slope / c * offset(n)
w[m,n] = exp(x[m,n] - m_i[m])                     x_row[m] = slope * (start(n) - start(m)) - slope * offset(m)
                                                  w[m,n]   = exp(z[m,n] * c - (m_i[m] - x_row[m]))

Positions are split into the start of a tile and an offset, so that differences of large positions stay exact and the per-element terms are
small and loop-invariant. Products of sums are expanded, cosines and sines of sums follow the addition theorems, and two reads of one
tensor, at the query and at the key, are taken relative to the first position of a tile. A row term costs one more rounding of the exponent,
which is negligible in half precision and for positions of usual size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from attngen.ir import build
from attngen.ir.algebra import Bag, Product, bag, over, products, signed_terms, times
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Index, Offset, Read, Start
from attngen.ir.names import Names
from attngen.ir.printer import print_expr
from attngen.ir.signs import is_positive_constant
from attngen.ir.traverse import children, free_axes, reads, rewrite, walk
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import Note
from attngen.kernel.rewrites.scale_folding import exponent_row, read_by_others

_INSTRUCTIONS = {"sin": 60, "cos": 60, "div": 8, "exp": 2, "tanh": 12, "sqrt": 4, "pow": 4, "abs": 0, "neg": 0, "to_float": 1}
"""Instructions of operations that do not take exactly one."""
_MARGIN = 0.5
"""Instructions that must be saved at least: the estimate is no more exact."""


def bias_separation(kernel: Kernel, asked: bool = False) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel with fewer operations per pair of positions, and a note for each bias; if `asked`, separate even without a saving."""
    notes: list[Note] = []
    for step in kernel.steps:
        rows = [row for other in kernel.steps if (row := exponent_row(other, step)) is not None]
        if not rows or len(signed_terms(step.body)) == 1:
            continue
        found = _split(step, rows, kernel, asked)
        if isinstance(found, str):
            notes.append(Note(step.name, kernel.role, False, found))
        else:
            notes.append(Note(step.name, kernel.role, True, found.saving))
            kernel = _replaced(kernel, step, found)
    return kernel, tuple(notes)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A separated exponent: `tile * scale`, plus products of a row and a key value, plus a row term; and the saving as text."""

    tile: Expr
    scale: Expr
    pairs: tuple[tuple[Expr, Expr], ...]
    row: Expr
    saving: str


def _split(step: Einsum, rows: list[Expr], kernel: Kernel, asked: bool) -> _Parts | str:
    pair = {kernel.resident, kernel.streamed or ""}
    others = read_by_others(step, kernel)
    if others:
        return f"{others} needs {step.name} itself"
    along = {axis for row in rows for axis in free_axes(row) if axis in pair}
    if len(along) != 1:
        return f"{step.name} is not measured from one value a row"
    (row_axis,) = along
    (key_axis,) = pair - along
    terms = _Terms(step.body, row_axis, key_axis, kernel.resident).products()
    if any(Counter(item.factors)[Start(row_axis)] for item in terms if len(_positions(item)) > 1):
        return "a power of a position is not exact, other than in a power of a distance"
    far = [factor for item in terms for factor in item.factors if len(_axes((factor,), pair)) == 1 and _is_absolute(factor)]
    if far:
        return f"{print_expr(far[0])} has no form relative to a tile"
    # A captured value may be so large that the score is lost in a sum with it: it stays in the tile, unscaled.
    captured = [item for item in terms if _axes([read for factor in item.factors for read in reads(factor)], pair)]
    tiles = [item for item in terms if _axes(item.factors, pair) == pair and not _separates(item, pair)]
    alone = [item for item in terms if key_axis not in _axes(item.factors, pair)]
    shared = [item for item in alone if item not in captured]
    rest = [item for item in terms if item not in tiles and item not in alone]
    scaled = all(item in tiles for item in captured)
    tile, scale = _main(tiles, kernel) if scaled else (_sum([*tiles, *(item for item in alone if item in captured)]), build.ONE)
    pairs = _pairs(rest, row_axis, key_axis)
    row = build.apply("to_float", _sum(shared))
    sides = [side for both in pairs for side in both]
    before = _work([step.body], kernel)
    after = _work([tile, row, *sides], kernel) + len(pairs) + (scale != build.ONE)
    saving = f"rank {len(pairs)}, {after:.3g} operations for each pair, {before:.3g} as it was written"
    changes = bool(pairs) or row != build.ZERO
    return _Parts(tile, scale, pairs, row, saving) if changes and (after + _MARGIN <= before or asked) else saving


class _Terms:
    """An expanded exponent, with positions relative to a tile."""

    def __init__(self, body: Expr, row_axis: str, key_axis: str, resident: str) -> None:
        self.body, self.row_axis, self.key_axis, self.resident = body, row_axis, key_axis, resident
        self.axes = {row_axis, key_axis}
        self.centers: dict[Read, Expr] = {}

    def products(self) -> list[Product]:
        """The terms, with reads relative to those at the start of a tile if these cancel, as in distances."""
        self.centers = self.twins()
        found = _collected(products(self.body, self.expand))
        centers = set(self.centers.values())
        if any(factor in centers for item in found for factor in item.factors):
            self.centers = {}
            found = _collected(products(self.body, self.expand))
        return self.absolute(found)

    def absolute(self, terms: list[Product]) -> list[Product]:
        """Merge terms: a row's start plus the distance to the key's start is the key's start."""
        distance, start = self.distance, Start(self.row_axis)
        given = {bag(item.factors): item for item in terms}
        done: list[Product] = []
        for item in terms:
            swapped = _swapped(item, start, distance), _swapped(item, distance, start)
            twins = [given.get(bag(other.factors)) if other is not None else None for other in swapped]
            if twins[0] is not None and twins[0].coefficient == item.coefficient:
                done += [merged] if (merged := _swapped(item, start, Start(self.key_axis))) is not None else []
            elif twins[1] is None or twins[1].coefficient != item.coefficient:
                done.append(item)
        return done

    @property
    def distance(self) -> Expr:
        """The start of the key tile relative to that of the row tile."""
        return build.apply("to_float", build.sub(Start(self.key_axis), Start(self.row_axis)))

    def twins(self) -> dict[Read, Expr]:
        """Reads of one tensor at the query and at the key, each with the same read at the start of the resident tile."""
        found = {read: self.at(read, Index("")) for read in reads(self.body) if len(self.axes & set(free_axes(read))) == 1}
        counts = Counter(found.values())
        pairs = [read for read, shape in found.items() if counts[shape] == 2 and read.kind == "float"]
        return {read: _finite(self.at(read, Start(self.resident))) for read in pairs}

    def at(self, read: Read, position: Expr) -> Read:
        changed = rewrite(read, lambda node: position if isinstance(node, Index) and node.axis in self.axes else None)
        assert isinstance(changed, Read)
        return changed

    def expand(self, factor: Expr) -> tuple[Product, ...] | None:
        match factor:
            case Index(axis=axis) if axis == self.row_axis:
                return Product(1.0, (Start(axis),)), Product(1.0, (Offset(axis),))
            case Index(axis=axis) if axis == self.key_axis:
                return Product(1.0, (Start(self.row_axis),)), Product(1.0, (self.distance,)), Product(1.0, (Offset(axis),))
            case Read() if factor in self.centers:
                center = self.centers[factor]
                return Product(1.0, (build.sub(factor, center),)), Product(1.0, (center,))
            case Apply(op="cos" | "sin" as op, args=(angle,)):
                return self.expanded_angle(op, angle)
            case _:
                return None

    def expanded_angle(self, op: str, angle: Expr) -> tuple[Product, ...] | None:
        """A cosine or sine of a row term plus a key term, by the addition theorems; None if the angle does not separate."""
        terms = _collected(products(angle, self.expand))
        key = [item for item in terms if self.key_axis in _axes(item.factors, self.axes)]
        row = [item for item in terms if item not in key and self.row_axis in _axes(item.factors, self.axes)]
        rest = [item for item in terms if item not in key and item not in row]
        if not key or not row or self.row_axis in _axes([factor for item in key for factor in item.factors], self.axes):
            return None
        return tuple(_of_sum(op, [build.apply("to_float", _sum(part)) for part in (key, row, rest) if part]))


def _of_sum(op: str, angles: Sequence[Expr]) -> list[Product]:
    """A cosine or sine of a sum of angles, expanded."""
    first, *rest = angles
    if not rest:
        return [Product(1.0, (build.apply(op, first),))]
    same, other = ("cos", "sin") if op == "cos" else ("sin", "cos")
    sign = -1.0 if op == "cos" else 1.0
    cosines = [Product(1.0, (build.apply("cos", first),)).times(item) for item in _of_sum(same, rest)]
    return [*cosines, *(Product(sign, (build.apply("sin", first),)).times(item) for item in _of_sum(other, rest))]


def _axes(factors: Iterable[Expr], axes: set[str]) -> set[str]:
    return {axis for factor in factors for axis in free_axes(factor)} & axes


def _separates(item: Product, pair: set[str]) -> bool:
    """Whether each factor varies along one axis of the pair at most."""
    return all(len(_axes((factor,), pair)) < 2 for factor in item.factors)


def _collected(terms: Iterable[Product]) -> list[Product]:
    """Products with equal factors merged."""
    found: dict[Bag, Product] = {}
    for term in terms:
        key = bag(term.factors)
        found[key] = replace(term, coefficient=term.coefficient + (found[key].coefficient if key in found else 0.0))
    return [item for item in found.values() if item.coefficient != 0.0]


def _swapped(item: Product, old: Expr, new: Expr) -> Product | None:
    """The product with one factor replaced; None if it lacks the factor."""
    if old not in item.factors:
        return None
    place = item.factors.index(old)
    return replace(item, factors=(*item.factors[:place], new, *item.factors[place + 1 :]))


def _positions(item: Product) -> list[Expr]:
    """Factors that are computed from starts of tiles alone."""
    return [factor for factor in item.factors if any(isinstance(node, Start) for node in walk(factor)) and not reads(factor)]


def _is_absolute(expr: Expr) -> bool:
    """Whether a value is computed from an absolute position, other than as the index of a read."""
    if isinstance(expr, Index | Read):
        return isinstance(expr, Index)
    return any(map(_is_absolute, children(expr)))


def _main(tiles: list[Product], kernel: Kernel) -> tuple[Expr, Expr]:
    """The tile of pairs and its positive scale, 1 if there is no common one."""
    computed = {step.name for step in kernel.steps}
    if len(tiles) == 1 and tiles[0].coefficient > 0:
        wide = [factor for factor in tiles[0].factors if isinstance(factor, Read) and factor.tensor in computed and free_axes(factor)]
        narrow = [factor for factor in tiles[0].factors if factor not in wide]
        if len(wide) == 1 and all(is_positive_constant(factor) for factor in narrow):
            return wide[0], Product(tiles[0].coefficient, tuple(narrow)).expr
    return _sum(tiles), build.ONE


def _pairs(terms: list[Product], row_axis: str, key_axis: str) -> tuple[tuple[Expr, Expr], ...]:
    """(row value, key value) of each product: terms with equal key values are merged, and those without a row value make one more."""
    sides = [(item.coefficient, *_sides(item, key_axis)) for item in terms]
    both = [side for side in sides if any(row_axis in free_axes(factor) for factor in side[1])]
    shared = {bag(keys) for _, _, keys in both}
    alone = [side for side in sides if side not in both and bag(side[2]) not in shared]
    found: dict[Bag, tuple[Expr, list[Product]]] = {}
    for coefficient, others, keys in sides:
        if bag(keys) in shared:
            item = Product(coefficient, tuple(map(_tame, others)))
            found.setdefault(bag(keys), (times(map(_tame, keys)), []))[1].append(item)
    pairs = [(_sum(parts), value) for value, parts in found.values()]
    if len(alone) == 1:
        ((coefficient, others, keys),) = alone
        pairs.append((Product(coefficient, others).expr, times(keys)))
    elif alone:
        pairs.append((build.ONE, _sum(Product(coefficient, (*others, *keys)) for coefficient, others, keys in alone)))
    return tuple(pairs)


def _sides(item: Product, key_axis: str) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    keys = tuple(factor for factor in item.factors if key_axis in free_axes(factor))
    return tuple(factor for factor in item.factors if factor not in keys), keys


def _tame(factor: Expr) -> Expr:
    return _finite(factor) if _is_centered(factor) else factor


def _is_centered(factor: Expr) -> bool:
    return isinstance(factor, Apply) and factor.op == "sub" and isinstance(factor.args[0], Read)


def _finite(value: Expr) -> Expr:
    """A value with 0 for infinity, since 0 * inf is NaN: the terms with its square remain infinite."""
    return build.apply("where", build.apply("eq", build.apply("abs", value), build.INF), build.ZERO, value)


def _sum(terms: Iterable[Product]) -> Expr:
    return build.total([item.expr for item in terms])


def _work(exprs: Iterable[Expr], kernel: Kernel) -> float:
    """Operations per pair of positions in one iteration.

    A thread holds pairs of few resident rows and many streamed positions: an operation per streamed position costs half as much as one per
    pair, one per resident row or scalar next to nothing. Loop-invariant operations are hoisted and cost nothing.
    """
    pair = {kernel.resident, kernel.streamed or ""}
    total = 0.0
    for node in dict.fromkeys(node for expr in exprs for node in walk(expr)):
        axes = _axes((node,), pair)
        is_variant = any(isinstance(part, Index | Start) and part.axis == kernel.streamed for part in walk(node))
        if isinstance(node, Apply) and (axes == pair or is_variant):
            share = 1.0 if axes == pair else 0.5 if kernel.streamed in axes else 1 / 16 if axes else 1 / 32
            total += share * _INSTRUCTIONS.get(node.op, 1)
    return total


def _replaced(kernel: Kernel, step: Einsum, parts: _Parts) -> Kernel:
    """The kernel with the separated exponent; its row term moves into the row value that every weight subtracts."""
    names = Names(kernel.cascade)
    tile = parts.tile
    for row, key in parts.pairs:
        tile = build.add(tile, build.mul(row if parts.scale == build.ONE else over(row, parts.scale), key))
    steps: list[Einsum] = []
    z = names.fresh(f"{step.name}_tile")
    shared = names.fresh(f"{step.name}_row")
    here = tuple(axis for axis in step.axes if axis in free_axes(parts.row) or axis in kernel.grid or axis in kernel.loops)
    level = build.ZERO if parts.row == build.ZERO else build.read(shared, here)
    for other in kernel.steps:
        row = exponent_row(other, step)
        if other is step:
            scaled = build.mul(build.read(z, step.axes), parts.scale)
            rows = [] if level == build.ZERO else [Einsum(shared, here, parts.row, loc=step.loc)]
            steps += [replace(step, name=z, body=tile), *rows, replace(step, body=scaled)]
        elif row is not None:
            steps.append(replace(other, body=build.exp(build.sub(build.read(step.name, step.axes), build.sub(row, level)))))
        else:
            steps.append(other)
    gauges = tuple(replace(item, shift=level) if item.exponent == step.name else item for item in kernel.gauges)
    return replace(kernel, steps=tuple(steps), gauges=gauges)
